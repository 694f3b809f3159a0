package http

import (
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// apiPolicy is the content security policy of everything but pages.
const apiPolicy = "default-src 'none'; frame-ancestors 'none'"

// secure sets what helmet sets, with the content security policy of an API.
func secure(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set("Content-Security-Policy", apiPolicy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Origin-Agent-Cluster", "?1")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-DNS-Prefetch-Control", "off")
		h.Set("X-Download-Options", "noopen")
		h.Set("X-Frame-Options", "SAMEORIGIN")
		h.Set("X-Permitted-Cross-Domain-Policies", "none")
		h.Set("X-XSS-Protection", "0")
		h.Set("Cache-Control", "no-store")
		return next(c)
	}
}

// What a browser may send and read from another origin.
var (
	corsMethods = strings.Join([]string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, ", ")
	corsHeaders = strings.Join([]string{
		"Authorization", "Content-Type", "X-API-Key", "Idempotency-Key", "If-Match",
		"X-Min-Position", "X-Request-Id", "Last-Event-ID",
	}, ", ")
	corsExposed = strings.Join([]string{
		"ETag", "Location", "Retry-After", "X-Event-Position", "X-Projection-Lag", "X-Request-Id", "Idempotency-Replayed",
		"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
	}, ", ")
)

// cors allows the listed origins, exactly, on every answer, errors included,
// and answers preflights of any address.
func cors(origins []string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			h := c.Response().Header()
			h.Add("Vary", "Origin")
			origin := c.Request().Header.Get("Origin")
			allowed := origin != "" && slices.Contains(origins, origin)
			if allowed {
				h.Set("Access-Control-Allow-Origin", origin)
				h.Set("Access-Control-Expose-Headers", corsExposed)
			}
			if c.Request().Method != http.MethodOptions {
				return next(c)
			}
			h.Add("Vary", "Access-Control-Request-Method")
			h.Add("Vary", "Access-Control-Request-Headers")
			h.Set("Allow", corsMethods)
			if allowed {
				h.Set("Access-Control-Allow-Methods", corsMethods)
				h.Set("Access-Control-Allow-Headers", corsHeaders)
				h.Set("Access-Control-Max-Age", "7200")
			}
			return c.NoContent(http.StatusOK)
		}
	}
}

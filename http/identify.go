package http

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sparkops/control-plane/commands"
)

// credential is what a request shows: a bearer token, else an API key.
func credential(h http.Header) (token, key string) {
	if scheme, value, ok := strings.Cut(h.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		if token = strings.TrimSpace(value); token != "" {
			return token, ""
		}
	}
	return "", strings.TrimSpace(h.Get("X-API-Key"))
}

// identifyTimeout bounds finding out who asks, which comes before everything
// else a request may take.
const identifyTimeout = 5 * time.Second

// authenticate returns who shows these headers, as of now; nobody without a
// credential.
func (s *Server) authenticate(ctx context.Context, h http.Header) (commands.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	switch token, key := credential(h); {
	case token != "":
		return s.handler.AuthenticateBearer(ctx, token)
	case key != "":
		return s.handler.AuthenticateAPIKey(ctx, key)
	default:
		return commands.Identity{}, nil
	}
}

// identify finds out who asks. A credential that does not count is no error
// yet: public calls are answered all the same, because clients send a stored
// token also when they log in.
func (s *Server) identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if unlimited[c.Request().URL.Path] || s.handler == nil {
			return next(c)
		}
		ctx := c.Request().Context()
		r := requestOf(ctx)
		who, err := s.authenticate(ctx, c.Request().Header)
		if err != nil {
			r.denied = err
		} else {
			r.actor, r.session = who.Actor, who.SessionID
		}
		return next(c)
	}
}

package http

import (
	"embed"
	"net/http"

	"github.com/labstack/echo/v4"
)

//go:embed docs
var docs embed.FS

// pagePolicy lets a page load its own script and style, and nothing from
// anywhere else.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageRoutes adds the description of the API and the page that shows it.
func (s *Server) pageRoutes() {
	s.raw(prefix+"/openapi.json", "auth:public", func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/openapi+json", s.spec.json)
	}, http.MethodGet)
	s.raw(prefix+"/openapi.yaml", "auth:public", func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/openapi+yaml", s.spec.yaml)
	}, http.MethodGet)
	for path, file := range map[string]struct{ name, kind string }{
		"/docs":          {"docs/index.html", echo.MIMETextHTMLCharsetUTF8},
		"/docs/docs.js":  {"docs/docs.js", "text/javascript; charset=utf-8"},
		"/docs/docs.css": {"docs/docs.css", "text/css; charset=utf-8"},
	} {
		s.raw(path, "auth:public", page(file.name, file.kind), http.MethodGet)
	}
	s.raw("/", "auth:public", func(c echo.Context) error { return c.Redirect(http.StatusFound, "/docs") }, http.MethodGet)
}

func page(name, kind string) echo.HandlerFunc {
	return func(c echo.Context) error {
		content, err := docs.ReadFile(name)
		if err != nil {
			return err
		}
		h := c.Response().Header()
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("Cache-Control", "no-cache")
		return c.Blob(http.StatusOK, kind, content)
	}
}

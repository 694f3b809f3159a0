package embedded

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// newHTTPServer serves the HTTP/1.1 endpoints that load balancers and dashboards ask.
func newHTTPServer(s *service) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/health/live", s.serveLive)
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{
			"esVersion":      serverVersion,
			"state":          "leader",
			"features":       map[string]bool{"projections": false, "userManagement": false, "atomPub": false},
			"authentication": map[string]any{"type": "insecure", "properties": map[string]any{}},
		})
	})
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"msgTypeId": 0, "text": "Ping request successfully handled"})
	})
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// serveLive answers 204, or the code the caller asked for, while the node takes requests, and 503 otherwise.
func (s *service) serveLive(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	code := http.StatusNoContent
	if asked, err := strconv.Atoi(r.URL.Query().Get("liveCode")); err == nil && asked >= 200 && asked < 600 {
		code = asked
	}
	select {
	case <-s.closing:
		code = http.StatusServiceUnavailable
	case <-s.log.failed:
		code = http.StatusServiceUnavailable
	default:
	}
	w.WriteHeader(code)
}

func writeJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	// The client may be gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(body)
}

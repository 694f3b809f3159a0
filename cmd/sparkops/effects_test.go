package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// effects is the outside world of the end-to-end tests: an HTTP endpoint that
// counts what it was asked to do, by idempotency key, as a careful service
// does: a key seen again is answered with the first answer and not done again.
type effects struct {
	*httptest.Server
	mu    sync.Mutex
	calls map[string]int      // by idempotency key: how often it was asked
	steps map[string][]string // by "label": the distinct keys that did something
}

func newEffects(t testing.TB) *effects {
	e := &effects{calls: map[string]int{}, steps: map[string][]string{}}
	e.Server = httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(e.Close)
	return e
}

func (e *effects) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var input struct {
		Label string `json:"label"`
	}
	if err != nil || json.Unmarshal(body, &input) != nil || input.Label == "" {
		http.Error(w, "no label", http.StatusBadRequest)
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		http.Error(w, "no key", http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	e.calls[key]++
	if e.calls[key] == 1 {
		e.steps[input.Label] = append(e.steps[input.Label], key)
	}
	e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"done": input.Label})
}

// done returns how many times the labelled effect took place.
func (e *effects) done(label string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.steps[label])
}

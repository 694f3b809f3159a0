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
	asked map[string]int      // by "label": how often it was asked
	held  chan struct{}       // calls are answered once it is closed; nil: at once
}

func newEffects(t testing.TB) *effects {
	e := &effects{calls: map[string]int{}, steps: map[string][]string{}, asked: map[string]int{}}
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
	e.asked[input.Label]++
	if e.calls[key] == 1 {
		e.steps[input.Label] = append(e.steps[input.Label], key)
	}
	held := e.held
	e.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"done": input.Label})
}

// done returns how many times the labelled effect took place.
func (e *effects) done(label string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.steps[label])
}

// times returns how many times the labelled effect was asked for.
func (e *effects) times(label string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked[label]
}

// hold keeps answers back, after the effect took place, until release is
// called.
func (e *effects) hold() (release func()) {
	held := make(chan struct{})
	e.mu.Lock()
	e.held = held
	e.mu.Unlock()
	return sync.OnceFunc(func() {
		e.mu.Lock()
		e.held = nil
		e.mu.Unlock()
		close(held)
	})
}

package eventstore

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Store is the event log. Its methods may be called from any goroutine. Open
// makes one, Close ends it.
type Store struct {
	registry    *domain.Registry
	logger      *slog.Logger
	metrics     *metrics
	callTimeout time.Duration
	calls       *link     // appends and reads of single streams
	streams     *linkPool // long reads and subscriptions: a connection carries 100 calls, and the rest wait

	life context.Context // ends with errClosed
	end  context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	active int           // subscriptions and long reads
	quiet  chan struct{} // closed when closed and active is 0
}

// Open makes a store. It does not connect: the first call does.
func Open(cfg Config, registry *domain.Registry) (*Store, error) {
	if registry == nil {
		return nil, errors.New("open event store: no registry of events")
	}
	timeout := cfg.CallTimeout
	dialing, err := parseURL(cfg.URL, &timeout)
	if err != nil {
		return nil, err
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.Default()
	}
	m := newMetrics()
	if err := m.register(cfg.Registerer); err != nil {
		return nil, err
	}
	// The library may be busy connecting for as long as a lookup may take, twice.
	grace := 2*timeout + 2*time.Duration(dialing.config.GossipTimeout)*time.Second
	life, end := context.WithCancelCause(context.Background())
	return &Store{
		registry: registry, logger: logger, metrics: m, callTimeout: timeout,
		calls:   newLink(dialing, logger, grace),
		streams: &linkPool{dialing: dialing, logger: logger, patience: grace},
		life:    life, end: end, quiet: make(chan struct{}),
	}, nil
}

// Registry returns the registry events are encoded and decoded with.
func (s *Store) Registry() *domain.Registry { return s.registry }

// Close ends the subscriptions, waits for the calls under way as long as a
// call may take, and closes the connections. Calls after it fail with
// domain.Unavailable. It may be called repeatedly and always returns nil.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.end(errClosed)
		if s.active == 0 {
			close(s.quiet)
		}
	}
	s.mu.Unlock()
	patience := s.calls.grace
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.quiet:
	case <-timer.C:
		s.logger.Warn("event store: subscribers do not return; closing their connections under them")
		patience = 0
	}
	s.streams.close(patience)
	s.calls.close(s.calls.grace)
	s.metrics.unregister()
	return nil
}

// begin counts a long operation and ties its context to the life of the store.
func (s *Store) begin(ctx context.Context) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, unavailable(errClosed)
	}
	s.active++
	ctx, cancel := context.WithCancelCause(ctx)
	detach := context.AfterFunc(s.life, func() { cancel(errClosed) })
	return ctx, func() {
		detach()
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.active--; s.closed && s.active == 0 {
			close(s.quiet)
		}
	}, nil
}

// Ping makes one round trip to the log. It fails with domain.Unavailable when
// the store does not answer.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.callTimeout)
	defer cancel()
	_, err := s.Head(ctx)
	return err
}

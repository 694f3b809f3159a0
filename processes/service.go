package processes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/eventstore/pubsub"
	"github.com/sparkops/control-plane/readmodels"
)

// Service runs the processes and the timers. It is made by New from a literal
// of its exported fields.
type Service struct {
	Handler   *commands.Handler // with its store and views
	Processes []Process         // All() where nil

	Logger     *slog.Logger          // nil: slog.Default()
	Registerer prometheus.Registerer // nil: no metrics

	metrics metrics
	parking *pubsub.Publisher
}

// New checks the fields of s, fills in defaults and returns a service that
// does nothing until Run.
func New(s Service) (*Service, error) {
	if s.Handler == nil || s.Handler.Store == nil || s.Handler.Views == nil {
		return nil, errors.New("processes: a handler with a store and views is required")
	}
	if s.Processes == nil {
		s.Processes = All()
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	s.parking = pubsub.NewPublisher(s.Handler.Store, s.Handler.Clock)
	var err error
	s.metrics, err = newMetrics(s.Registerer)
	return &s, err
}

// Run waits to lead, leads, and waits again when the lead is lost, until ctx
// ends. It survives the loss of Postgres and of the event store.
func (s *Service) Run(ctx context.Context) error {
	for failures := 0; ; failures++ {
		conn, err := s.elect(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		s.metrics.leading.Set(1)
		s.Logger.InfoContext(ctx, "processes: this node leads")
		began := time.Now()
		err = s.lead(ctx, conn)
		s.metrics.leading.Set(0)
		closeConn(conn)
		if ctx.Err() != nil {
			return nil
		}
		s.Logger.WarnContext(ctx, "processes: this node leads no more", "error", err)
		if time.Since(began) > time.Minute {
			failures = 0
		}
		if sleep(ctx, backoff(failures)) != nil {
			return nil
		}
	}
}

// lead does the work of one term, which ends with ctx, with the connection, or
// with a process that cannot go on.
func (s *Service) lead(ctx context.Context, conn *pgx.Conn) error {
	group, ctx := errgroup.WithContext(ctx)
	router, handlers, err := s.router(ctx)
	if err != nil {
		return err
	}
	group.Go(func() error { return s.react(ctx, router) })
	for _, h := range handlers {
		group.Go(func() error { return h.watch(ctx, router) })
	}
	group.Go(func() error { return hold(ctx, conn) })
	group.Go(func() error {
		notified, err := s.listen(ctx)
		if err != nil {
			return err
		}
		defer closeConn(notified)
		t := &timers{s: s, wake: func(ctx context.Context, d time.Duration) error { return wake(ctx, notified, d) }, asked: map[readmodels.Timer]time.Time{}}
		return t.run(ctx)
	})
	return group.Wait()
}

// react runs the router until ctx ends. That the router ends by itself ends
// the term.
func (s *Service) react(ctx context.Context, router *message.Router) error {
	if err := router.Run(ctx); err != nil {
		return fmt.Errorf("run the router: %w", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errTermOver
}

// handler is a process connected to its events.
type handler struct {
	name   string
	events *pubsub.Subscriber
	routed *message.Handler
}

// watch returns when the subscription of the process has ended: the router by
// itself would go on without it.
func (h handler) watch(ctx context.Context, router *message.Router) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-router.Running(): // only then Stopped may be asked for
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-h.routed.Stopped():
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("process %s stopped: %w", h.name, cmp.Or(h.events.Err(), errTermOver))
}

// router connects each process to the events of its categories.
func (s *Service) router(ctx context.Context) (*message.Router, []handler, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NewSlogLogger(s.Logger))
	if err != nil {
		return nil, nil, fmt.Errorf("make the router: %w", err)
	}
	handlers := make([]handler, 0, len(s.Processes))
	for _, p := range s.Processes {
		events, err := pubsub.NewSubscriber(pubsub.Config{
			Store: s.Handler.Store, Checkpoints: s.Handler.Views.ProcessCheckpoints(), Name: p.Name, Logger: s.Logger,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("subscribe process %s: %w", p.Name, err)
		}
		routed := router.AddConsumerHandler("process."+p.Name, pubsub.Topic(p.Categories...), events, func(m *message.Message) error {
			return s.handle(ctx, p, m)
		})
		handlers = append(handlers, handler{name: p.Name, events: events, routed: routed})
	}
	return router, handlers, nil
}

// handle deals with one event, as long as the term lasts. Its error means that
// the event comes again.
func (s *Service) handle(term context.Context, p Process, m *message.Message) error {
	e, ok := pubsub.RecordedFrom(m)
	if !ok {
		return fmt.Errorf("process %s: message %s carries no event", p.Name, m.UUID)
	}
	if len(p.On(e)) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(m.Context())
	defer cancel()
	defer context.AfterFunc(term, cancel)()
	result, err := s.carryOut(ctx, p, e, func(ctx context.Context, cause error) error {
		return s.parking.Park(ctx, p.Name, e, cause.Error())
	})
	if err != nil {
		return err
	}
	s.metrics.events.WithLabelValues(p.Name, string(result)).Inc()
	return nil
}

// Parked returns the events a process could not handle, oldest first. An
// unknown process is NotFound.
func (s *Service) Parked(ctx context.Context, process string) ([]pubsub.ParkedEvent, error) {
	if _, err := s.process(process); err != nil {
		return nil, err
	}
	return s.parking.Parked(ctx, process)
}

// Redrive handles parked events of a process again, all of them where no ids
// are given, and returns how many are done with. The first that fails again
// ends it and stays parked.
func (s *Service) Redrive(ctx context.Context, process string, ids []string) (int, error) {
	p, err := s.process(process)
	if err != nil {
		return 0, err
	}
	return s.parking.Redrive(ctx, process, ids, func(ctx context.Context, e eventstore.Recorded) error {
		var failed error
		_, err := s.carryOut(ctx, p, e, func(_ context.Context, cause error) error {
			failed = cause
			return nil
		})
		return cmp.Or(err, failed)
	})
}

func (s *Service) process(name string) (Process, error) {
	for _, p := range s.Processes {
		if p.Name == name {
			return p, nil
		}
	}
	return Process{}, domain.Missing()
}

package http

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

const (
	eventStream      = "text/event-stream"
	pingEvery        = 15 * time.Second
	recheckEvery     = 30 * time.Second // of credential and visibility, while a stream lasts
	streamWriteBound = 20 * time.Second // for one event to be taken by the client
	streamLife       = 30 * time.Minute // then the client connects again, with a fresh credential
)

// streamCounter bounds the live streams of one user.
type streamCounter struct {
	most int
	mu   sync.Mutex
	open map[string]int
}

func newStreamCounter(most int) *streamCounter {
	return &streamCounter{most: most, open: map[string]int{}}
}

func (c *streamCounter) enter(user string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[user] >= c.most {
		return false
	}
	c.open[user]++
	return true
}

func (c *streamCounter) leave(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[user]--; c.open[user] <= 0 {
		delete(c.open, user)
	}
}

// Streamed is an answer that is written while it happens.
type Streamed struct {
	Body func(huma.Context)
}

// StreamInput selects where a stream begins.
type StreamInput struct {
	ID
	LastEventID string `header:"Last-Event-ID" doc:"id of the last event that was seen; the stream goes on after it."`
	After       uint64 `query:"after" doc:"Position after which the stream begins; Last-Event-ID counts where both are given."`
}

// streamRun sends the events of a run as they happen, and ends after the one
// that ends the run.
func (s *Server) streamRun(ctx context.Context, in *StreamInput) (*Streamed, error) {
	after := in.After
	if in.LastEventID != "" {
		position, err := strconv.ParseUint(in.LastEventID, 10, 64)
		if err != nil {
			return nil, domain.InvalidFields([]domain.Field{{Field: "Last-Event-ID", Message: "must be the id of an event of this stream"}})
		}
		after = position
	}
	if _, err := s.views.Run(ctx, visibleTo(ctx), in.ID.ID); err != nil {
		return nil, err
	}
	user := actorOf(ctx).ID
	if !s.streams.enter(user) {
		return nil, domain.Fail(domain.RateLimited, "TOO_MANY_STREAMS", "You have %d live streams open already; close one first.", s.limits.Streams)
	}
	return &Streamed{Body: func(hc huma.Context) {
		defer s.streams.leave(user)
		s.metrics.streams.Inc()
		defer s.metrics.streams.Dec()
		s.send(hc, in.ID.ID, after)
	}}, nil
}

func (s *Server) send(hc huma.Context, runID string, after uint64) {
	hc.SetHeader("Content-Type", eventStream)
	hc.SetHeader("X-Accel-Buffering", "no")
	response := humaecho.Unwrap(hc).Response()
	out := &eventWriter{response: response, control: http.NewResponseController(response)}
	ctx, cancel := context.WithTimeout(hc.Context(), streamLife)
	defer cancel()
	s.background.Go(func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	})
	hc.SetStatus(http.StatusOK)
	err := out.write("retry: 1000\n\n")
	if err == nil {
		checked := time.Now()
		err = s.follower.Follow(ctx, runID, after, s.pingEvery, func(e *commands.Recorded) error {
			if time.Since(checked) >= s.recheckEvery {
				if err := s.stillAllowed(ctx, humaecho.Unwrap(hc).Request().Header, runID); err != nil {
					return err
				}
				checked = time.Now()
			}
			if e == nil {
				return out.write(": ping\n\n")
			}
			data, err := json.Marshal(told(*e))
			if err != nil {
				return fmt.Errorf("write event: %w", err)
			}
			return out.write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.Position, e.Type, data))
		})
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		requestOf(hc.Context()).err = err
		s.log.DebugContext(ctx, "a live stream ended early", "error", err)
	}
}

// stillAllowed ends a stream whose credential has run out, or whose caller no
// longer sees the run. A dependency that does not answer ends nothing.
func (s *Server) stillAllowed(ctx context.Context, credential http.Header, runID string) error {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	who, err := s.authenticate(ctx, credential)
	if err == nil {
		_, err = s.views.Run(ctx, readmodels.VisibleTo(who.Actor), runID)
	}
	switch domain.KindOf(err) {
	case domain.Unauthorized, domain.NotFound, domain.Forbidden:
		return err
	default:
		return nil
	}
}

// eventWriter sends each event at once, and gives up on a client that does not
// take it.
type eventWriter struct {
	response http.ResponseWriter
	control  *http.ResponseController
}

func (w *eventWriter) write(text string) error {
	if err := w.control.SetWriteDeadline(time.Now().Add(streamWriteBound)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := w.response.Write([]byte(text)); err != nil {
		return err
	}
	return w.control.Flush()
}

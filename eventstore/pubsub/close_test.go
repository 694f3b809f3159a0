package pubsub_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// A nacked event that waits for its next turn does not hold up Close.
func TestCloseDuringBackoff(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.add(t, "note-1", 1)
	config := r.config()
	config.RetryDelay, config.MaxRetryDelay = time.Hour, time.Hour
	s := open(t, config)
	messages := subscribe(t, s)
	receive(t, messages).Nack()
	require.NoError(t, s.Close())
	closed(t, messages)
	require.NoError(t, s.Err())
	require.Zero(t, r.checkpoints.position("process"))
}

// Close waits for handlers, keeps what they acked, and gives up on those that
// do not answer. It is safe while nobody reads the channel.
func TestClose(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.add(t, "note-1", 1)
	s := open(t, r.config())
	messages := subscribe(t, s)
	m := receive(t, messages)
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	require.NoError(t, m.Context().Err(), "a handler may finish its work")
	m.Ack()
	require.NoError(t, <-done)
	closed(t, messages)
	require.Equal(t, r.last, r.checkpoints.position("process"), "the last save is at Close")
	require.NoError(t, s.Close(), "again")
	_, err := s.Subscribe(t.Context(), "note")
	require.Error(t, err)

	r.add(t, "note-1", 2)
	config := r.config()
	config.CloseTimeout = 10 * time.Millisecond
	s = open(t, config)
	messages = subscribe(t, s)
	m = receive(t, messages)
	require.NoError(t, s.Close(), "a handler that never answers")
	require.ErrorIs(t, m.Context().Err(), context.Canceled)
	closed(t, messages)

	s = open(t, config)
	messages = subscribe(t, s)
	require.NoError(t, s.Close(), "nobody reads")
	closed(t, messages)
	s = open(t, config)
	m = receive(t, subscribe(t, s))
	require.Equal(t, `{"n":2}`, string(m.Payload), "what was not acked comes again")
	m.Ack()
}

func TestContextEndsSubscription(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	s := open(t, r.config())
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := s.Subscribe(ctx, "note")
	require.NoError(t, err)
	_, err = s.Subscribe(t.Context(), "note")
	require.ErrorContains(t, err, "already")
	cancel()
	closed(t, messages)
	require.NoError(t, s.Err())
	r.add(t, "note-1", 1)
	receive(t, subscribe(t, s)).Ack() // it may subscribe again
	r.reaches(t, r.last)
}

// A new process starts at the end of the log as it was at its first
// subscription, also when that ended before anything was delivered.
func TestNewProcessStartsAtTheEnd(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	old := r.add(t, "note-1", 1)
	config := r.config()
	config.FromStart = false
	s := open(t, config)
	subscribe(t, s)
	require.Equal(t, old, r.checkpoints.position("process"))
	require.NoError(t, s.Close())
	r.add(t, "note-1", 2)
	m := receive(t, subscribe(t, open(t, config)))
	require.Equal(t, `{"n":2}`, string(m.Payload))
	m.Ack()

	config.Name = "another"
	s = open(t, config)
	require.NoError(t, s.SubscribeInitialize("note"))
	r.add(t, "note-1", 3)
	m = receive(t, subscribe(t, s))
	require.Equal(t, `{"n":3}`, string(m.Payload))
	m.Ack()
}

// An event nobody registered stops the process loudly, after what was before it.
func TestUnknownEventStops(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	known := r.add(t, "note-1", 1)
	_, err := r.AppendRaw(t.Context(), "note-2", eventstore.NoStream, eventstore.Raw{ID: uuid.NewString(), Type: "FromTheFuture", Data: []byte(`{}`)})
	require.NoError(t, err)
	s := open(t, r.config())
	messages := subscribe(t, s)
	closed(t, messages)
	require.ErrorIs(t, s.Err(), domain.ErrUnknownEvent)
	require.LessOrEqual(t, r.checkpoints.position("process"), known)
}

func TestCheckpointsFail(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.add(t, "note-1", 1)
	broken := errors.New("the database is away")
	r.checkpoints.fail(broken)
	s := open(t, r.config())
	_, err := s.Subscribe(t.Context(), "note")
	require.ErrorIs(t, err, broken, "nothing is delivered before the start is known")
	r.checkpoints.fail(nil)
	messages := subscribe(t, s)
	m := receive(t, messages)
	r.checkpoints.fail(broken)
	m.Ack()
	<-m.Context().Done()
	r.checkpoints.fail(nil)
	r.reaches(t, r.last)

	// Somebody else owns the process now.
	taken := domain.Fail(domain.Conflict, "TAKEN", "Another node runs this process.")
	r.add(t, "note-1", 2)
	m = receive(t, messages)
	r.checkpoints.fail(taken)
	m.Ack()
	closed(t, messages)
	require.ErrorIs(t, s.Err(), taken)
}

// A quiet process moves its checkpoint with the log.
func TestQuietProcessMovesOn(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	subscribe(t, open(t, r.config()))
	for i := 0; r.checkpoints.position("process") == 0; i++ {
		require.Less(t, i, 50_000)
		r.add(t, "elsewhere-1", i)
	}
	require.LessOrEqual(t, r.checkpoints.position("process"), r.last)
}

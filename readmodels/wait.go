package readmodels

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
)

// Channels of pg_notify.
const (
	// ProgressChannel carries "<schema>:<position>" of every applied batch, and
	// "switch" when another build became live.
	ProgressChannel = "sparkops_projection"
	// TasksChannel carries the queue that got ready tasks.
	TasksChannel = "sparkops_tasks"
	// NudgeChannel carries "<schema>:<position>": somebody waits for the build
	// to say that it has passed the position. A build follows only the events of
	// its own categories, so it may have nothing to apply there.
	NudgeChannel = "sparkops_nudge"
)

const (
	idlePoll    = time.Second           // when nobody waits: only a safety net
	waitingPoll = 20 * time.Millisecond // notifications are faster; this is for lost ones
	patience    = 15 * time.Millisecond // a wait for an event of the build's own ends sooner
	nudgePause  = 50 * time.Millisecond // between two nudges of one build
)

var errClosed = errors.New("the views are closed")

// WaitFor returns once each of the named projections has applied the position,
// so that queries see what was written up to it. It fails with
// domain.Unavailable (PROJECTION_LAG) when the context's deadline comes first.
//
// A position that is already applied costs no round trip. Any number of callers
// share one reader of the checkpoints.
func (v *Views) WaitFor(ctx context.Context, position uint64, projections ...string) error {
	for _, name := range projections {
		if Versions[name] == 0 {
			return fmt.Errorf("wait for projection %q: there is none of that name", name)
		}
	}
	if position == 0 {
		return nil
	}
	w := v.hub.wait(position, projections)
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		v.hub.forget(w)
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return &domain.Error{
			Kind: domain.Unavailable, Code: "PROJECTION_LAG", Cause: ctx.Err(),
			Message: "The read models have not caught up with the requested position yet; try again in a moment.",
		}
	}
}

// Applied tells Views what this process has committed itself, which is sooner
// than Postgres does.
func (v *Views) Applied(schema string, position uint64) { v.hub.observe(schema, position) }

// poll reads the checkpoints, often while somebody waits, and asks builds that
// may have nothing to apply how far they are.
func (v *Views) poll(ctx context.Context) {
	nudged := map[string]time.Time{}
	for failures := 0; ; {
		pause := idlePoll
		if waiting, wanted := v.hub.pending(patience); waiting {
			pause = waitingPoll
			v.nudge(ctx, wanted, nudged)
		}
		if failures > 0 {
			pause = min(time.Duration(failures)*100*time.Millisecond, 2*time.Second)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-v.hub.poke:
			timer.Stop()
			if failures == 0 && !sleep(ctx, patience) {
				return
			}
		}
		if err := v.Refresh(ctx); err != nil && ctx.Err() == nil {
			if failures++; failures == 1 {
				v.log.WarnContext(ctx, "the checkpoints of the read models cannot be read", "error", err)
			}
			continue
		}
		failures = 0
	}
}

func (v *Views) nudge(ctx context.Context, wanted map[string]uint64, nudged map[string]time.Time) {
	for schema, position := range wanted {
		if time.Since(nudged[schema]) < nudgePause {
			continue
		}
		nudged[schema] = time.Now()
		payload := schema + ":" + strconv.FormatUint(position, 10)
		if _, err := v.infra.Exec(ctx, `select pg_notify($1, $2)`, NudgeChannel, payload); err != nil && ctx.Err() == nil {
			v.log.DebugContext(ctx, "a projection could not be asked for its position", "schema", schema, "error", err)
		}
	}
}

// listen passes on what Postgres notifies, over a connection of its own that
// it makes anew for ever.
func (v *Views) listen(ctx context.Context, config *pgx.ConnConfig) {
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		err := v.listenOnce(ctx, config)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			failures = 0
		}
		v.log.DebugContext(ctx, "the notifications of the database stopped", "error", err)
		if !sleep(ctx, min(time.Duration(failures+1)*100*time.Millisecond, 2*time.Second)) {
			return
		}
	}
}

func (v *Views) listenOnce(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // the connection is given up either way
	}()
	if _, err := conn.Exec(ctx, "listen "+ProgressChannel+"; listen "+TasksChannel); err != nil {
		return err
	}
	v.queues.wakeAll() // what was notified before is lost
	if err := v.Refresh(ctx); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		switch n.Channel {
		case TasksChannel:
			v.queues.wake(n.Payload)
		case ProgressChannel:
			v.progressed(ctx, n.Payload)
		}
	}
}

func (v *Views) progressed(ctx context.Context, payload string) {
	if schema, position, ok := ParseProgress(payload); ok {
		v.hub.observe(schema, position) // a build that is not live is nobody's concern
		return
	}
	if err := v.Refresh(ctx); err != nil && ctx.Err() == nil {
		v.log.WarnContext(ctx, "a switch of read models could not be followed yet", "error", err)
	}
}

// ParseProgress reads "<schema>:<position>".
func ParseProgress(payload string) (schema string, position uint64, ok bool) {
	schema, digits, ok := strings.Cut(payload, ":")
	if !ok {
		return "", 0, false
	}
	position, err := strconv.ParseUint(digits, 10, 64)
	return schema, position, err == nil
}

// sleep waits for d; false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

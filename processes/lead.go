package processes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/readmodels"
)

// leadLock is the key of the advisory lock whose holder leads.
const leadLock int64 = 0x737061726b6f7073 // "sparkops"

const electionPoll = time.Second

// elect waits until this node leads and returns the connection that holds the
// lock: the term lasts as long as it does. The caller closes it. The only
// error is that of a context that ended.
func (s *Service) elect(ctx context.Context) (*pgx.Conn, error) {
	for failures := 0; ; failures++ {
		conn, err := pgx.ConnectConfig(ctx, s.Handler.Views.Pool().Config().ConnConfig.Copy())
		if err == nil {
			if err = stand(ctx, conn); err == nil {
				return conn, nil
			}
			closeConn(conn)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if failures == 0 {
			s.Logger.WarnContext(ctx, "processes: Postgres does not answer, trying again", "error", err)
		}
		if err := sleep(ctx, min(backoff(failures), 2*electionPoll)); err != nil {
			return nil, err
		}
	}
}

// stand asks for the lock until it is free.
func stand(ctx context.Context, conn *pgx.Conn) error {
	for {
		leads, err := lock(ctx, conn)
		if leads || err != nil {
			return err
		}
		if err := sleep(ctx, electionPoll); err != nil {
			return err
		}
	}
}

// lock takes the lock if it is free, and then listens to the read models.
func lock(ctx context.Context, conn *pgx.Conn) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var leads bool
	if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, leadLock).Scan(&leads); err != nil || !leads {
		return false, err
	}
	_, err := conn.Exec(ctx, `listen `+readmodels.ProgressChannel)
	return err == nil, err
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is given up either way; with it goes the lock
}

var errTermOver = errors.New("the term is over")

// wake returns when the runs' read model has changed, or after a time. It
// fails with errTermOver when the connection, and with it the lock, is gone.
func wake(ctx context.Context, conn *pgx.Conn, atMost time.Duration) error {
	inner, cancel := context.WithTimeout(ctx, max(atMost, time.Millisecond))
	defer cancel()
	for {
		n, err := conn.WaitForNotification(inner)
		switch {
		case err == nil && (strings.HasPrefix(n.Payload, "runs_") || n.Payload == "switch"):
			return nil
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case inner.Err() != nil && !conn.IsClosed():
			return nil
		default:
			return fmt.Errorf("%w: %w", errTermOver, err)
		}
	}
}

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

const (
	electionPoll = time.Second

	// A node that hangs, or is cut off without a word, keeps its connection: so
	// the leader shows that it lives, and Postgres ends the session that holds
	// the lock when it does not.
	signOfLife  = time.Second
	silentLimit = `set idle_session_timeout = '5s'`
)

// elect waits until this node leads and returns the connection that holds the
// lock, which hold must keep: the term lasts as long as it does. The caller
// closes it. The only error is that of a context that ended.
func (s *Service) elect(ctx context.Context) (*pgx.Conn, error) {
	for failures := 0; ; failures++ {
		conn, err := s.connect(ctx)
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

func (s *Service) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, s.Handler.Views.Pool().Config().ConnConfig.Copy())
}

// stand asks for the lock until it is free.
func stand(ctx context.Context, conn *pgx.Conn) error {
	if err := ask(ctx, conn, silentLimit); err != nil {
		return err
	}
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

// lock takes the lock if it is free.
func lock(ctx context.Context, conn *pgx.Conn) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var leads bool
	err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, leadLock).Scan(&leads)
	return leads, err
}

// hold keeps the connection that holds the lock alive, and fails with
// errTermOver when it is gone.
func hold(ctx context.Context, conn *pgx.Conn) error {
	for {
		if err := sleep(ctx, signOfLife); err != nil {
			return err
		}
		err := ask(ctx, conn, `select 1`)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("%w: %w", errTermOver, err)
		}
	}
}

// listen returns a connection that is notified of what the read models apply.
// The caller closes it.
func (s *Service) listen(ctx context.Context) (*pgx.Conn, error) {
	conn, err := s.connect(ctx)
	if err == nil {
		if err = ask(ctx, conn, `listen `+readmodels.ProgressChannel); err == nil {
			return conn, nil
		}
		closeConn(conn)
	}
	return nil, fmt.Errorf("listen to the read models: %w", err)
}

func ask(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	_, err := conn.Exec(ctx, sql)
	return err
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is given up either way; with it goes the lock
}

var errTermOver = errors.New("the term is over")

// wake returns when the runs' read model has changed, or after a time. It
// fails with errTermOver when the connection is gone.
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

package readmodels

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:embed sql/infra.sql
var infraSQL string

// "create … if not exists" is not safe against itself: the lock is.
const migrateLock = `select pg_advisory_xact_lock(hashtextextended('sparkops infra schema', 0))`

// Migrate creates the schema sparkops, or brings it up to date. It may be
// repeated, and two nodes may do it at once.
func Migrate(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("migrate: %w", Translate(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, migrateLock); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, infraSQL)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", Translate(err))
	}
	return nil
}

package readmodels

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/sparkops/control-plane/domain"
)

// Postgres error codes and classes this package tells apart.
const (
	undefinedTable = "42P01"
	invalidSchema  = "3F000"
)

// Translate turns an error of Postgres or of its driver into one of the domain:
// no row is NotFound, a server that cannot be reached or takes no queries is
// Unavailable, a read model that is not there yet is Unavailable too. An error
// that is none of these, or is the domain's already, comes back as it is.
func Translate(err error) error {
	if err == nil || domain.KindOf(err) != "" {
		return err
	}
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return notFound()
	case errors.As(err, &pg):
		return translateServer(pg, err)
	case errors.Is(err, context.Canceled):
		return err
	case Unreachable(err):
		return unavailable(err)
	default:
		return err
	}
}

func translateServer(pg *pgconn.PgError, err error) error {
	switch {
	case pg.Code == undefinedTable || pg.Code == invalidSchema:
		return &domain.Error{
			Kind: domain.Unavailable, Code: "READ_MODEL_BUILDING", Cause: err,
			Message: "The read model of this resource is being built; try again in a moment.",
		}
	case Unreachable(err):
		return unavailable(err)
	default:
		return err
	}
}

// Unreachable reports whether err says that Postgres could not be asked (so
// that asking again later may help), rather than that it refused.
func Unreachable(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code[:2] {
		case "08", "53", "57", "58": // connection, resources, shutdown and cancel, system
			return true
		case "40": // deadlock, serialization: the same thing again may work
			return true
		}
		return pg.Code == "25006" || pg.Code == "3D000" // a standby; a database not made yet
	}
	var network net.Error
	return errors.As(err, &network) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, puddle.ErrClosedPool) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

func notFound() error {
	return domain.Fail(domain.NotFound, "NOT_FOUND", "There is no such resource.")
}

func unavailable(cause error) error {
	return &domain.Error{
		Kind: domain.Unavailable, Code: "DATABASE_UNAVAILABLE", Cause: cause,
		Message: "The database of the read models does not answer; try again in a moment.",
	}
}

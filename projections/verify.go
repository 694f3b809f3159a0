package projections

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
)

// Report is the outcome of a verification.
type Report struct {
	Name        string       `json:"name"`
	Schema      string       `json:"schema"`   // the build that was verified
	Position    uint64       `json:"position"` // as of which it was
	Tables      []TableCount `json:"tables"`
	Differences []Difference `json:"differences"` // at most MaxDifferences
	Total       int          `json:"total"`       // of all differences
}

// TableCount is how many rows a table of the verified build has.
type TableCount struct {
	Table string `json:"table"`
	Rows  int    `json:"rows"`
}

// Difference is a row that only one side has; a row that both have with other
// values is two of them.
type Difference struct {
	Table string `json:"table"`
	Side  string `json:"side"` // live: it should not be there; replayed: it is missing
	Row   string `json:"row"`  // as JSON
}

// MaxDifferences bounds the differences a Report lists.
const MaxDifferences = 100

// Verify replays the log into tables of its own up to the checkpoint of the
// live build and compares every row. The live build goes on meanwhile: it is
// compared as it was when the verification began. progress may be nil.
//
// It fails with domain.NotFound for an unknown name and with domain.Unavailable
// while there is no live build.
func (r *Runner) Verify(ctx context.Context, name string, progress func(Progress)) (Report, error) {
	p, err := byName(r.Projections, name)
	if err != nil {
		return Report{}, err
	}
	report := Report{Name: name, Tables: []TableCount{}, Differences: []Difference{}}
	err = r.verify(ctx, p, &report, progress)
	if err != nil {
		return report, fmt.Errorf("verify %s: %w", name, readmodels.Translate(err))
	}
	return report, nil
}

const liveBuild = `select schema, position from sparkops.projections where name = $1 and version = $2 and state = 'live'`

func (r *Runner) verify(ctx context.Context, p Projection, report *Report, progress func(Progress)) error {
	conn, err := pgx.ConnectConfig(ctx, r.builds.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	// Everything this transaction reads is as of its first statement.
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	var position int64
	err = tx.QueryRow(ctx, liveBuild, p.Name, p.Version).Scan(&report.Schema, &position)
	if errors.Is(err, pgx.ErrNoRows) {
		return domain.Fail(domain.Unavailable, "READ_MODEL_BUILDING", "The projection is being built for the first time; there is nothing to verify yet.")
	}
	if err != nil {
		return err
	}
	report.Position = uint64(position)
	begun, err := r.builds.create(ctx, p, scratch, r.Node)
	if err != nil {
		return err
	}
	defer r.discard(ctx, begun)
	if err := r.replay(ctx, p, begun, report.Position, progress); err != nil {
		return err
	}
	return r.compare(ctx, tx, begun, report)
}

// discard drops a scratch build; what cannot be dropped now the sweep drops.
func (r *Runner) discard(ctx context.Context, l lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*disconnectedTime)
	defer cancel()
	if err := r.builds.drop(ctx, l.schema); err != nil {
		r.Logger.WarnContext(ctx, "projection: the tables of a verification are left over", "schema", l.schema, "error", err)
	}
}

// replay fills a scratch build up to a position.
func (r *Runner) replay(ctx context.Context, p Projection, begun lease, upTo uint64, progress func(Progress)) error {
	conn, err := r.connect(ctx, begun.schema)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	l := r.newLeader(p, begun, scratch)
	if progress != nil {
		progress(Progress{Head: upTo})
		l.observe = func(position uint64) { progress(Progress{Position: position, Head: upTo}) }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var beating sync.WaitGroup
	defer beating.Wait()
	defer cancel(nil)
	beating.Go(func() { l.beat(ctx, cancel) }) // else another node takes the build for left over
	applier, w := p.New(), work{}
	commit := func() error {
		err := l.commit(ctx, conn, applier, w)
		w = work{events: w.events[:0]}
		return err
	}
	if upTo == 0 {
		return nil
	}
	err = r.Store.ReadAll(ctx, 0, upTo, p.Categories, func(e eventstore.Recorded) error {
		w.take(eventstore.Message{Event: &e, Position: e.Position})
		if len(w.events) < maxBatch {
			return nil
		}
		return commit()
	})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	w.position = upTo
	return commit()
}

const tablesOf = `select table_name::text from information_schema.tables where table_schema = $1 and table_type = 'BASE TABLE' order by 1`

// compare walks through both sides of each table in the same order.
func (r *Runner) compare(ctx context.Context, tx pgx.Tx, replayed lease, report *Report) error {
	conn, err := r.builds.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	found, err := conn.Query(ctx, tablesOf, replayed.schema)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		mine, err := openRows(ctx, conn.Conn(), replayed.schema, table)
		if err != nil {
			return fmt.Errorf("read replayed %s: %w", table, err)
		}
		theirs, err := openRows(ctx, tx.Conn(), report.Schema, table)
		if err != nil {
			mine.rows.Close()
			return fmt.Errorf("read live %s: %w", table, err)
		}
		err = report.merge(table, theirs, mine)
		mine.rows.Close()
		theirs.rows.Close()
		if err != nil {
			return fmt.Errorf("compare %s: %w", table, err)
		}
	}
	return nil
}

// sorted reads the rows of one table as JSON, in the order of their bytes.
type sorted struct {
	rows pgx.Rows
	row  string
	done bool
}

func openRows(ctx context.Context, conn *pgx.Conn, schema, table string) (*sorted, error) {
	rows, err := conn.Query(ctx, `select to_json(t)::text collate "C" from `+pgx.Identifier{schema, table}.Sanitize()+` t order by 1`)
	if err != nil {
		return nil, err
	}
	s := &sorted{rows: rows}
	if err := s.next(); err != nil {
		rows.Close()
		return nil, err
	}
	return s, nil
}

func (s *sorted) next() error {
	if !s.rows.Next() {
		s.done = true
		return s.rows.Err()
	}
	return s.rows.Scan(&s.row)
}

func (rep *Report) merge(table string, theirs, mine *sorted) error {
	count := TableCount{Table: table}
	for !theirs.done || !mine.done {
		live := mine.done || !theirs.done && theirs.row <= mine.row
		both := live && !mine.done && theirs.row == mine.row
		var err error
		switch {
		case both:
			count.Rows++
			if err = theirs.next(); err == nil {
				err = mine.next()
			}
		case live:
			count.Rows++
			rep.add(Difference{Table: table, Side: "live", Row: theirs.row})
			err = theirs.next()
		default:
			rep.add(Difference{Table: table, Side: "replayed", Row: mine.row})
			err = mine.next()
		}
		if err != nil {
			return err
		}
	}
	rep.Tables = append(rep.Tables, count)
	return nil
}

func (rep *Report) add(d Difference) {
	rep.Total++
	if len(rep.Differences) < MaxDifferences {
		rep.Differences = append(rep.Differences, d)
	}
}

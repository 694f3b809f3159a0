package readmodels

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
)

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// rows runs a query and returns its rows as structs by column name; never nil.
func rows[T any](ctx context.Context, q querier, sql string, args ...any) ([]T, error) {
	found, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, Translate(err)
	}
	all, err := pgx.CollectRows(found, pgx.RowToStructByName[T])
	if err != nil {
		return nil, Translate(err)
	}
	if all == nil {
		all = []T{}
	}
	return all, nil
}

// row runs a query and returns its first row, domain.NotFound without one.
func row[T any](ctx context.Context, q querier, sql string, args ...any) (T, error) {
	found, err := q.Query(ctx, sql, args...)
	if err != nil {
		var zero T
		return zero, Translate(err)
	}
	one, err := pgx.CollectOneRow(found, pgx.RowToStructByName[T])
	return one, Translate(err)
}

// column runs a query of one column and returns its values; never nil.
func column[T any](ctx context.Context, q querier, sql string, args ...any) ([]T, error) {
	found, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, Translate(err)
	}
	all, err := pgx.CollectRows(found, pgx.RowTo[T])
	if err != nil {
		return nil, Translate(err)
	}
	if all == nil {
		all = []T{}
	}
	return all, nil
}

// Visible is which projects the caller may see. The zero value sees nothing.
type Visible struct {
	All      bool
	Projects []string
}

// VisibleTo returns what an actor may see.
func VisibleTo(a domain.Actor) Visible {
	if a.SeesAll() {
		return Visible{All: true}
	}
	projects := make([]string, 0, len(a.Projects))
	for id := range a.Projects {
		projects = append(projects, id)
	}
	return Visible{Projects: projects}
}

// conditions collects the where clause of one query and its arguments.
type conditions struct {
	terms []string
	args  []any
}

// arg adds an argument and returns its placeholder.
func (c *conditions) arg(value any) string {
	c.args = append(c.args, value)
	return fmt.Sprintf("$%d", len(c.args))
}

// add adds a term; each ? in it stands for the next of the values.
func (c *conditions) add(term string, values ...any) {
	for _, value := range values {
		term = strings.Replace(term, "?", c.arg(value), 1)
	}
	c.terms = append(c.terms, term)
}

// equal adds column = value unless the value is empty.
func (c *conditions) equal(column, value string) {
	if value != "" {
		c.add(column+" = ?", value)
	}
}

// visible restricts a column of project ids.
func (c *conditions) visible(column string, v Visible) {
	if !v.All {
		c.add(column+" = any(?)", nonNil(v.Projects))
	}
}

func (c *conditions) where() string {
	if len(c.terms) == 0 {
		return ""
	}
	return " where " + strings.Join(c.terms, " and ")
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

package readmodels

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
)

// Page sizes.
const (
	DefaultSize = 20
	MaxSize     = 100
)

// Page says which part of a list is wanted: page Page (from 1) of Size, or,
// with a Cursor of an earlier Result, the Size entries after it, however deep
// that is. The zero value is the first page of 20.
type Page struct {
	Page   int
	Size   int
	Cursor string
}

// Result is one part of a list. Total counts the whole list. Next continues
// after the last item; it is "" at the end of the list.
type Result[T any] struct {
	Items []T
	Total int
	Next  string
}

// normal fills in defaults and caps the size.
func (p Page) normal() Page {
	if p.Size <= 0 {
		p.Size = DefaultSize
	}
	p.Size, p.Page = min(p.Size, MaxSize), max(p.Page, 1)
	return p
}

// cursor is the key of the last item given out, in the list's order.
type cursor struct {
	At time.Time `json:"t"`
	ID string    `json:"i"`
}

func (c cursor) String() string {
	text, _ := json.Marshal(c) // of a time and a string: cannot fail
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseCursor(text string) (c cursor, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil || c.ID == "" {
		return c, domain.InvalidFields([]domain.Field{{Field: "cursor", Message: "is not a cursor of an earlier answer"}})
	}
	return c, nil
}

// list is one list query: newest first by a time column, then by id.
type list[T any] struct {
	columns string // of the select
	from    string // table with joins
	at, id  string // columns of the order
	key     func(T) cursor
}

// run returns the wanted part of what the conditions select, and counts all of
// it in the same round trip.
func (l list[T]) run(ctx context.Context, q batcher, c conditions, p Page) (Result[T], error) {
	p = p.normal()
	count, countArgs := "select count(*) from "+l.from+c.where(), c.args[:len(c.args):len(c.args)]
	order := " order by " + l.at + " desc, " + l.id + " desc"
	tail := ""
	if p.Cursor != "" {
		after, err := parseCursor(p.Cursor)
		if err != nil {
			return Result[T]{}, err
		}
		c.terms = append(c.terms[:len(c.terms):len(c.terms)], "("+l.at+", "+l.id+") < ("+c.arg(after.At)+", "+c.arg(after.ID)+")")
	} else {
		tail = " offset " + c.arg(int64(p.Page-1)*int64(p.Size))
	}
	tail = " limit " + c.arg(p.Size+1) + tail // one more tells whether there is a next

	batch := &pgx.Batch{}
	batch.Queue("select "+l.columns+" from "+l.from+c.where()+order+tail, c.args...)
	batch.Queue(count, countArgs...)
	answers := q.SendBatch(ctx, batch)
	defer answers.Close()
	result := Result[T]{}
	found, err := answers.Query()
	if err != nil {
		return result, Translate(err)
	}
	if result.Items, err = pgx.CollectRows(found, pgx.RowToStructByName[T]); err != nil {
		return result, Translate(err)
	}
	if err := answers.QueryRow().Scan(&result.Total); err != nil {
		return result, Translate(err)
	}
	result.Items = nonNil(result.Items)
	if len(result.Items) > p.Size {
		result.Items = result.Items[:p.Size]
		result.Next = l.key(result.Items[p.Size-1]).String()
	}
	return result, nil
}

// batcher is a pool, a connection or a transaction.
type batcher interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// convert maps the items of a result.
func convert[A, B any](r Result[A], f func(A) B) Result[B] {
	items := make([]B, len(r.Items))
	for i, item := range r.Items {
		items[i] = f(item)
	}
	return Result[B]{Items: items, Total: r.Total, Next: r.Next}
}

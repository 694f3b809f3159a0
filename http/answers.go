package http

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

// Written are the headers of the answer to a write.
type Written struct {
	ETag     string `header:"ETag" doc:"The revision of the resource, for If-Match."`
	Position string `header:"X-Event-Position" doc:"Position of the written event, for X-Min-Position."`
	Lag      string `header:"X-Projection-Lag" doc:"true when the read models had not caught up in time; the write is stored all the same."`
	Location string `header:"Location" doc:"Address of a created resource."`
}

// Saved is the answer to a write: the resource as it is now.
type Saved[T any] struct {
	Written
	Body T
}

// Found is the answer to a read of one resource.
type Found[T any] struct {
	ETag string `header:"ETag" doc:"The revision of the resource, for If-Match."`
	Body T
}

// Plain is an answer without headers of its own.
type Plain[T any] struct{ Body T }

// Gone is the answer to a deletion.
type Gone struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}

// Said is an answer of one sentence.
type Said struct {
	Message string `json:"message"`
}

// Writing are the headers every write takes.
type Writing struct {
	IfMatch        string `header:"If-Match" doc:"The ETag of the revision that is to be changed; another one answers 412."`
	IdempotencyKey string `header:"Idempotency-Key" doc:"Makes repeating the request safe for 24 hours: the first answer is given again."`
}

// Reading are the headers every read takes.
type Reading struct {
	MinPosition string `header:"X-Min-Position" doc:"An X-Event-Position: the answer includes what was written there, or is a 503."`
}

// ID is the path parameter of one resource.
type ID struct {
	ID string `path:"id" doc:"Id of the resource."`
}

// Paging are the query parameters of every list.
type Paging struct {
	Reading
	Page     int    `query:"page" minimum:"1" maximum:"1000000000" doc:"Page, from 1."`
	PageSize int    `query:"page_size" minimum:"1" doc:"Entries on a page: 20 where absent, at most 100. limit means the same."`
	Cursor   string `query:"cursor" maxLength:"512" doc:"nextCursor of an earlier answer: continues after it, however deep."`
}

func (p Paging) page() readmodels.Page {
	return readmodels.Page{Page: p.Page, Size: p.PageSize, Cursor: p.Cursor}
}

// List is one page of a list.
type List[T any] struct {
	Items      []T    `json:"items"`
	Total      int    `json:"total" doc:"Entries of the whole list."`
	Page       int    `json:"page"`
	PageSize   int    `json:"pageSize"`
	TotalPages int    `json:"totalPages"`
	NextCursor string `json:"nextCursor,omitempty" doc:"Continues after the last entry; absent at the end."`
}

func listOf[T any](r readmodels.Result[T], p Paging) *Plain[List[T]] {
	page, size := max(p.Page, 1), p.PageSize
	if size <= 0 {
		size = readmodels.DefaultSize
	}
	size = min(size, readmodels.MaxSize)
	return &Plain[List[T]]{List[T]{
		Items: r.Items, Total: r.Total, Page: page, PageSize: size,
		TotalPages: (r.Total + size - 1) / size, NextCursor: r.Next,
	}}
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// actorOf returns who asks.
func actorOf(ctx context.Context) domain.Actor { return commands.ActorFrom(ctx) }

// visibleTo returns what the caller may see.
func visibleTo(ctx context.Context) readmodels.Visible { return readmodels.VisibleTo(actorOf(ctx)) }

// mayRead authorises reading a thing that was found to be visible.
func mayRead(ctx context.Context, permission domain.Permission, project string) error {
	return actorOf(ctx).Authorize(domain.Need{Permission: permission, Project: project})
}

// settleWait bounds how long a write waits for the read models.
const settleWait = 5 * time.Second

// settled waits until the read models show what a command wrote, so that the
// one refetch a client makes right after a write finds it. Where they do not
// keep up the write still succeeded: lag is true.
func (s *Server) settled(ctx context.Context, receipt commands.Receipt, projections ...string) (written Written, lag bool) {
	written.ETag, written.Position = etag(int64(receipt.Revision)), strconv.FormatUint(receipt.Position, 10)
	bounded, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if err := s.views.WaitFor(bounded, receipt.Position, projections...); err != nil {
		written.Lag = "true"
		if !errors.Is(err, context.Canceled) {
			s.log.WarnContext(ctx, "an answer did not wait for the read models any longer", "error", err, "position", receipt.Position)
		}
		return written, true
	}
	return written, false
}

// show returns a resource after a write: as the read model shows it, or, where
// that lags, as the log says.
func show[T any](lag bool, read, told func() (T, error)) (T, error) {
	if !lag {
		view, err := read()
		if err == nil || domain.KindOf(err) != domain.Unavailable {
			return view, err
		}
	}
	return told()
}

// fixed is a told that needs no look into the log.
func fixed[T any](v T) func() (T, error) { return func() (T, error) { return v, nil } }

// madeAt returns when an id was made, which is when its resource was created.
func madeAt(id string) time.Time {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(parsed.Time().UnixTime()).UTC()
}

// Items is a whole list.
type Items[T any] struct {
	Items []T `json:"items"`
	Total int `json:"total"`
}

func itemsOf[T any](all []T) *Plain[Items[T]] {
	if all == nil {
		all = []T{}
	}
	return &Plain[Items[T]]{Items[T]{all, len(all)}}
}

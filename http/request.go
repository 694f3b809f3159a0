package http

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
)

// request is what is known of one request while it is served. One goroutine
// serves it, so it needs no lock.
type request struct {
	id      string
	path    string
	address string // of the client, by the trusted part of the chain
	begun   time.Time

	actor   domain.Actor
	session string            // of a bearer token
	denied  error             // why the credential that was sent does not count
	names   map[string]string // every spelling of a top-level key -> as it was sent

	code string // of the problem that was answered
	err  error  // its cause, for the log
}

type requestKey struct{}

func withRequest(ctx context.Context, r *request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// requestOf returns the record of the request; an empty one outside of it.
func requestOf(ctx context.Context) *request {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r
	}
	return &request{}
}

// asSent puts a field's path into the key style of the caller.
func (r *request) asSent(path string) string {
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		end = len(path)
	}
	if sent, ok := r.names[path[:end]]; ok {
		return sent + path[end:]
	}
	return path
}

var plainID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// requestID takes a client's request id when it is safe to log and to send
// back, and makes one otherwise.
func requestID(sent string) string {
	if plainID.MatchString(sent) {
		return sent
	}
	return uuid.Must(uuid.NewV7()).String()
}

// isID reports whether a text can be the id of one of our resources: the
// canonical form of a UUID.
func isID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

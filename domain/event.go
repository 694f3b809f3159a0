package domain

import "strings"

// Event is one fact of a stream. EventType returns the stored name: a literal
// that is never derived from a Go type, renamed, reused or removed, because
// the log keeps it for ever.
type Event interface{ EventType() string }

// StreamName returns the stream of one aggregate, "<category>-<id>". A
// category never contains a dash: the server's by-category index splits at
// the first one.
func StreamName(category, id string) string { return category + "-" + id }

// SplitStream returns the category and the id of a stream name, cut at the
// first dash. ok is false where there is none.
func SplitStream(stream string) (category, id string, ok bool) {
	return strings.Cut(stream, "-")
}

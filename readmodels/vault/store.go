package vault

import "context"

// Record is what a store keeps of a subject: its wrapped data key, or the
// tombstone of an erased one, which has neither KeyID nor Wrapped.
type Record struct {
	Subject string `json:"subject"`
	KeyID   string `json:"keyId,omitempty"`   // of the master key
	Wrapped []byte `json:"wrapped,omitempty"` // nonce and ciphertext
	Erased  bool   `json:"erased,omitempty"`
}

// Store keeps one record per subject. Its methods are atomic against each other,
// also between processes, and durable when they return. DirStore and
// PostgresStore are the implementations.
type Store interface {
	// Get returns the subject's record, also a tombstone, or ErrNoKey.
	Get(ctx context.Context, subject string) (Record, error)
	// PutIfAbsent stores the record when the subject has none, and returns the
	// one that is stored from now on: this, an earlier one, or a tombstone.
	PutIfAbsent(ctx context.Context, r Record) (Record, error)
	// Replace stores new if the subject's record is still old, and reports
	// whether it was. A tombstone is never replaced.
	Replace(ctx context.Context, old, new Record) (bool, error)
	// Erase replaces the subject's record, or its absence, by a tombstone.
	Erase(ctx context.Context, subject string) error
	// List returns the subjects that have a key, tombstones left out, in order.
	List(ctx context.Context) ([]string, error)
}

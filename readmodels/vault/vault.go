// Package vault seals the personal text of events, so that a person can be
// erased from a log that is never rewritten.
//
// Each subject (a user) has a data key of its own. The events hold text sealed
// with it; the key is kept in a Store outside the log, wrapped by a master key.
// Erasing the data key makes every event text of that subject unreadable for
// ever, while the bytes of the log, and every proof over them, stay as they are.
//
// The Store is primary data. It cannot be rebuilt from the event log: losing it
// erases everybody, so back it up with the log. Restoring an old backup revives
// keys that were erased after it was made; repeat Erase for every subject the
// log says was erased since.
//
// Unwrapped keys are cached in memory for at most CacheTTL. An erasure takes
// effect at once on the Vault that carried it out, and within CacheTTL on every
// other node. Text sealed in between by another node cannot be opened
// afterwards.
package vault

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// CacheTTL bounds how long another node may still read an erased subject.
	CacheTTL = 10 * time.Second
	// CacheSize bounds the number of unwrapped keys in memory.
	CacheSize = 4096
	// MaxSubject is the longest subject, in bytes.
	MaxSubject = 256
)

var (
	// ErrErased means the subject's key was erased: its texts are gone for ever
	// and no new ones can be sealed.
	ErrErased = errors.New("the subject's key was erased")
	// ErrNoKey means the store never had a key for the subject: the text is not
	// the subject's, or the store is not the one that belongs to the log.
	ErrNoKey = errors.New("the subject has no key")
	// ErrMalformed means the sealed text is damaged, or was sealed for another
	// subject.
	ErrMalformed = errors.New("the sealed text is malformed")
	// ErrMasterKey means a data key is wrapped by a master key that was not given
	// to New.
	ErrMasterKey = errors.New("the master key is unknown")
)

// Vault seals and opens texts. It is safe for concurrent use; several Vaults on
// several nodes may share a Store.
type Vault struct {
	store   Store
	masters masters
	cache   *cache
}

// New returns a Vault that wraps data keys with masterKey (at least 32 bytes)
// and unwraps with it or one of the previous ones. To rotate: run every node
// with the new key and the old one as previous, Rewrap, then drop the old one.
func New(store Store, masterKey []byte, previous ...[]byte) (*Vault, error) {
	m, err := newMasters(masterKey, previous)
	if err != nil {
		return nil, err
	}
	return &Vault{store: store, masters: m, cache: newCache(CacheSize, CacheTTL)}, nil
}

// sealedPrefix names the format: base64url of a 12 byte nonce and AES-256-GCM's
// output, with the subject as additional data.
const sealedPrefix = "v1."

var encoding = base64.RawURLEncoding.Strict() // one text, one encoding

// Seal encrypts a text for the subject and returns "v1." and base64url. The
// first text of a subject creates its key; the key is durable when Seal returns.
// Sealing the same text twice gives different results. It fails with ErrErased
// when the subject was erased.
func (v *Vault) Seal(ctx context.Context, subject, plaintext string) (string, error) {
	if err := checkSubject(subject); err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	key, err := v.sealingKey(ctx, subject)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	buf := make([]byte, key.NonceSize(), key.NonceSize()+len(plaintext)+key.Overhead())
	_, _ = rand.Read(buf) // never fails: crypto/rand ends the program instead
	return sealedPrefix + encoding.EncodeToString(key.Seal(buf, buf, []byte(plaintext), []byte(subject))), nil
}

// Open returns the text that Seal was given. It fails with ErrErased when the
// subject was erased, whatever the text is, and else with ErrMalformed, ErrNoKey
// or ErrMasterKey.
func (v *Vault) Open(ctx context.Context, subject, sealed string) (string, error) {
	if err := checkSubject(subject); err != nil {
		return "", fmt.Errorf("open: %w", err)
	}
	key, keep, err := v.openingKey(ctx, subject)
	if err != nil {
		return "", fmt.Errorf("open: %w", err)
	}
	encoded, ok := strings.CutPrefix(sealed, sealedPrefix)
	if !ok || strings.ContainsAny(encoded, "\r\n") { // the decoder would skip these
		return "", fmt.Errorf("open: %w: not %q and one line", ErrMalformed, sealedPrefix)
	}
	raw, err := encoding.DecodeString(encoded)
	if err != nil || len(raw) < key.NonceSize()+key.Overhead() {
		return "", fmt.Errorf("open: %w: not base64url of enough bytes", ErrMalformed)
	}
	plaintext, err := key.Open(nil, raw[:key.NonceSize()], raw[key.NonceSize():], []byte(subject))
	if err != nil {
		return "", fmt.Errorf("open: %w: not what was sealed for this subject", ErrMalformed)
	}
	keep()
	return string(plaintext), nil
}

// Erase destroys the subject's key and leaves a tombstone, so that none is ever
// created again; also for a subject that had no key yet. Repeating it is safe.
// When it returns the erasure is durable.
func (v *Vault) Erase(ctx context.Context, subject string) error {
	if err := checkSubject(subject); err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	err := v.store.Erase(ctx, subject)
	v.cache.erase(subject) // also when it failed: it may have happened
	if err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	return nil
}

// Rewrap wraps every data key with the current master key, after which the
// previous ones are no longer needed. It may run while the vault is in use, on
// several nodes, and again after it was interrupted. progress, when not nil, is
// called after each key. A key that cannot be rewrapped does not stop the
// others; the error tells the first one and their number.
func (v *Vault) Rewrap(ctx context.Context, progress func(done, total int)) error {
	subjects, err := v.store.List(ctx)
	if err != nil {
		return fmt.Errorf("rewrap: %w", err)
	}
	failed := 0
	var first error
	for i, subject := range subjects {
		if ctx.Err() != nil {
			return fmt.Errorf("rewrap: %w", context.Cause(ctx))
		}
		if err := v.rewrap(ctx, subject); err != nil {
			if failed++; first == nil {
				first = fmt.Errorf("subject %s: %w", subject, err)
			}
		}
		if progress != nil {
			progress(i+1, len(subjects))
		}
	}
	if failed > 0 {
		return fmt.Errorf("rewrap: %d of %d keys failed, the first: %w", failed, len(subjects), first)
	}
	return nil
}

// rewrap repeats when another node changed the record in between; that one
// either rewrapped or erased it, so it ends.
func (v *Vault) rewrap(ctx context.Context, subject string) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		old, err := v.store.Get(ctx, subject)
		if err != nil {
			return err
		}
		if old.Erased || old.KeyID == v.masters.current().id {
			return nil
		}
		key, err := v.masters.unwrap(old)
		if err != nil {
			return err
		}
		replaced, err := v.store.Replace(ctx, old, v.masters.wrap(subject, key))
		if err != nil || replaced {
			return err
		}
	}
}

// sealingKey goes through PutIfAbsent and not Get, because only that promises
// that the key is durable, which it must be before a text is sealed with it.
func (v *Vault) sealingKey(ctx context.Context, subject string) (cipher.AEAD, error) {
	if key := v.cache.get(subject); key != nil {
		return key, nil
	}
	mark := v.cache.mark()
	fresh := make([]byte, keySize)
	_, _ = rand.Read(fresh) // never fails
	held, err := v.store.PutIfAbsent(ctx, v.masters.wrap(subject, fresh))
	if err != nil {
		return nil, err
	}
	key, err := v.unwrap(held)
	if err != nil {
		return nil, err
	}
	v.cache.put(subject, key, mark)
	return key, nil
}

// openingKey returns also the function that caches the key. It is called once a
// text was opened: that the text exists proves that its key is durable, and
// Seal takes keys from the cache.
func (v *Vault) openingKey(ctx context.Context, subject string) (cipher.AEAD, func(), error) {
	if key := v.cache.get(subject); key != nil {
		return key, func() {}, nil
	}
	mark := v.cache.mark()
	held, err := v.store.Get(ctx, subject)
	if err != nil {
		return nil, nil, err
	}
	key, err := v.unwrap(held)
	if err != nil {
		return nil, nil, err
	}
	return key, func() { v.cache.put(subject, key, mark) }, nil
}

func (v *Vault) unwrap(held Record) (cipher.AEAD, error) {
	if held.Erased {
		return nil, ErrErased
	}
	key, err := v.masters.unwrap(held)
	if err != nil {
		return nil, err
	}
	return newAEAD(key), nil
}

func checkSubject(subject string) error {
	switch {
	case subject == "":
		return errors.New("the subject is empty")
	case len(subject) > MaxSubject:
		return fmt.Errorf("the subject is longer than %d bytes", MaxSubject)
	case !utf8.ValidString(subject) || strings.ContainsRune(subject, 0):
		return errors.New("the subject is not text")
	}
	return nil
}

package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

const (
	keySize      = 32 // AES-256
	minMasterKey = 32
)

// master wraps data keys. Its id tells which one wrapped a key and tells
// nothing about the key.
type master struct {
	id   string
	aead cipher.AEAD
}

// masters are the current master key and the previous ones, in this order.
type masters []master

func (m masters) current() master { return m[0] }

func newMasters(current []byte, previous [][]byte) (masters, error) {
	var m masters
	for i, secret := range append([][]byte{current}, previous...) {
		if len(secret) < minMasterKey {
			which := "the master key"
			if i > 0 {
				which = fmt.Sprintf("previous master key %d", i)
			}
			return nil, fmt.Errorf("open vault: %s has %d bytes, at least %d are needed", which, len(secret), minMasterKey)
		}
		m = append(m, newMaster(secret))
	}
	return m, nil
}

// newMaster derives what it uses: the same secret may serve other purposes.
func newMaster(secret []byte) master {
	return master{
		id:   hex.EncodeToString(derive(secret, "sparkops vault key id v1", 8)),
		aead: newAEAD(derive(secret, "sparkops vault master key v1", keySize)),
	}
}

func derive(secret []byte, purpose string, size int) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, purpose, size)
	if err != nil {
		panic(err) // the size is a constant far below HKDF's limit
	}
	return key
}

func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err == nil {
		var aead cipher.AEAD
		if aead, err = cipher.NewGCM(block); err == nil {
			return aead
		}
	}
	panic(err) // the key's size is checked or our own
}

// wrap seals a data key with the current master key, bound to its subject: the
// wrapped key of one subject is no use in the record of another.
func (m masters) wrap(subject string, key []byte) Record {
	current := m.current()
	nonce := make([]byte, current.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return Record{Subject: subject, KeyID: current.id, Wrapped: current.aead.Seal(nonce, nonce, key, wrapContext(current.id, subject))}
}

func (m masters) unwrap(r Record) ([]byte, error) {
	for _, master := range m {
		if master.id != r.KeyID {
			continue
		}
		n := master.aead.NonceSize()
		if len(r.Wrapped) < n {
			return nil, fmt.Errorf("the stored key of %s is damaged", r.Subject)
		}
		key, err := master.aead.Open(nil, r.Wrapped[:n], r.Wrapped[n:], wrapContext(r.KeyID, r.Subject))
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("the stored key of %s is damaged", r.Subject)
		}
		return key, nil
	}
	return nil, fmt.Errorf("%w: the key of %s is wrapped by master key %s; give that SECRETS_KEY as a previous one", ErrMasterKey, r.Subject, r.KeyID)
}

func wrapContext(id, subject string) []byte {
	return []byte("sparkops vault data key v1\x00" + id + "\x00" + subject)
}

package commands

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Password hashes are Argon2id in the PHC string format,
// "$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>". New ones take these
// parameters; stored ones keep theirs.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16
	argonKey     = 32
)

// phc is a parsed password hash.
type phc struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

var errPHC = errors.New("not an Argon2id hash in PHC form")

var phcEncoding = base64.RawStdEncoding.Strict()

func (p phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads,
		phcEncoding.EncodeToString(p.salt), phcEncoding.EncodeToString(p.key))
}

// parsePHC reads a hash, and nothing that would take more than 256 MiB, 16
// passes or 16 lanes to verify: a forged hash must not become an attack.
func parsePHC(text string) (phc, error) {
	part := strings.Split(text, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" || part[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return phc{}, errPHC
	}
	var numbers [3]uint32
	fields := strings.Split(part[3], ",")
	if len(fields) != len(numbers) {
		return phc{}, errPHC
	}
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(fields[i], name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
			return phc{}, errPHC
		}
		numbers[i] = uint32(n)
	}
	salt, errSalt := phcEncoding.DecodeString(part[4])
	key, errKey := phcEncoding.DecodeString(part[5])
	p := phc{memory: numbers[0], time: numbers[1], threads: uint8(min(numbers[2], 255)), salt: salt, key: key}
	switch {
	case errSalt != nil || errKey != nil || strings.ContainsAny(part[4]+part[5], "\r\n"),
		p.threads < 1 || p.threads > 16, p.time < 1 || p.time > 16,
		p.memory < 8*uint32(p.threads) || p.memory > 256<<10,
		len(salt) < 8 || len(salt) > 64, len(key) < 16 || len(key) > 64:
		return phc{}, errPHC
	}
	return p, nil
}

func (p phc) derive(password string) []byte {
	return argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
}

// hashPassword returns the PHC string of a password. At most two passwords are
// hashed at a time, so that a flood of logins cannot take all memory.
func (h *Handler) hashPassword(ctx context.Context, password string) (string, error) {
	p := phc{memory: argonMemory, time: argonTime, threads: argonThreads, salt: make([]byte, argonSalt), key: make([]byte, argonKey)}
	_, _ = rand.Read(p.salt) // never fails: crypto/rand ends the program instead
	if err := h.hash(ctx, func() { p.key = p.derive(password) }); err != nil {
		return "", err
	}
	return p.String(), nil
}

// verifyPassword reports whether the password belongs to the hash, in a time
// that does not depend on either.
func (h *Handler) verifyPassword(ctx context.Context, password, hash string) (bool, error) {
	p, err := parsePHC(hash)
	if err != nil {
		return false, err
	}
	same := false
	err = h.hash(ctx, func() { same = subtle.ConstantTimeCompare(p.derive(password), p.key) == 1 })
	return same, err
}

// hash runs one password hashing when there is room for it.
func (h *Handler) hash(ctx context.Context, work func()) error {
	select {
	case h.hashing <- struct{}{}:
		defer func() { <-h.hashing }()
		work()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to hash a password: %w", ctx.Err())
	}
}

package commands

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"

	"github.com/google/uuid"
)

// An API key is "sk_<7 by its id>_<32 random bytes>_<checksum>" in base 62. The
// checksum lets scanners and us tell a key from noise without asking anybody.
const (
	keyScheme   = "sk"
	keyIDLen    = 7  // digits of 5 bytes
	keySecret   = 43 // digits of 32 bytes
	keyChecksum = 6  // digits of a CRC-32
)

var errAPIKey = errors.New("not an API key")

// newAPIKey makes the key of an id, and the start of it that may be shown.
func newAPIKey(keyID string) (key, prefix string) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand ends the program instead
	id := sha256.Sum256([]byte(keyID))
	prefix = keyScheme + "_" + base62(id[:5], keyIDLen)
	body := prefix + "_" + base62(secret[:], keySecret)
	return body + "_" + checksum(body), prefix
}

// checkAPIKey returns an error for what cannot be a key of ours.
func checkAPIKey(key string) error {
	cut := strings.LastIndexByte(key, '_')
	part := strings.Split(key, "_")
	if len(part) != 4 || part[0] != keyScheme || len(part[1]) != keyIDLen || len(part[2]) != keySecret ||
		!isBase62(part[1]) || !isBase62(part[2]) || part[3] != checksum(key[:cut]) {
		return errAPIKey
	}
	return nil
}

func checksum(text string) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE([]byte(text)))
	return base62(sum[:], keyChecksum)
}

// apiKeyDigest is what is stored of a key.
func (h *Handler) apiKeyDigest(key string) string {
	return hex.EncodeToString(mac(h.Secrets.APIKey, key))
}

// A refresh token is "rt_<session id>_<32 random bytes>": the id finds the
// family, the rest proves it.
const refreshScheme = "rt_"

func newRefreshToken(sessionID string) string {
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	return refreshScheme + sessionID + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
}

// sessionOfRefreshToken returns the session a refresh token names.
func sessionOfRefreshToken(token string) (sessionID string, ok bool) {
	rest, ok := strings.CutPrefix(token, refreshScheme)
	sessionID, _, cut := strings.Cut(rest, "_")
	if id, err := uuid.Parse(sessionID); !ok || !cut || len(token) > 256 || err != nil || id.String() != sessionID {
		return "", false
	}
	return sessionID, true
}

// tokenHash is what is stored of a refresh token. It is random enough that the
// hash needs no key.
func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

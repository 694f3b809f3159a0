package commands

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// keys are what is derived from Secrets once, at start-up.
type keys struct {
	email   []byte       // hashes e-mail addresses
	slug    []byte       // hashes slugs
	signing []signingKey // of access tokens: the one that signs, then the one before it
}

func deriveKeys(s Secrets) keys {
	return keys{
		email: mac(s.Master, "email hash v1"), slug: mac(s.Master, "slug hash v1"),
		signing: signingKeys(s.JWT, s.JWTPrevious),
	}
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// EmailHash returns the keyed hash under which an e-mail address is claimed
// and found. Addresses are compared without case and surrounding space.
func (h *Handler) EmailHash(email string) string {
	return hex.EncodeToString(mac(h.keys.email, strings.ToLower(strings.TrimSpace(email))))
}

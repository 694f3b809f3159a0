package commands

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestAPIKeyForm(t *testing.T) {
	t.Parallel()
	id := NewID()
	key, prefix := newAPIKey(id)
	require.Len(t, key, len("sk_")+7+1+43+1+6)
	require.True(t, strings.HasPrefix(key, prefix+"_"))
	require.NoError(t, checkAPIKey(key))
	again, samePrefix := newAPIKey(id)
	require.NotEqual(t, key, again)
	require.Equal(t, prefix, samePrefix)
	for i := range key {
		changed := []byte(key)
		changed[i] ^= 1
		require.Error(t, checkAPIKey(string(changed)), "a changed character at %d", i)
	}
	for _, noise := range []string{"", "sk_", "sk____", key + "x", key[1:], key[:len(key)-1], " " + key, strings.Repeat("_", 100), strings.Repeat("a", 1<<20)} {
		require.Error(t, checkAPIKey(noise))
	}
}

func TestBase62(t *testing.T) {
	t.Parallel()
	require.Equal(t, "0000", base62(nil, 4))
	require.Equal(t, "000z", base62([]byte{61}, 4))
	require.Equal(t, "0010", base62([]byte{62}, 4))
	require.Len(t, base62([]byte(strings.Repeat("\xff", 32)), 43), 43)
	require.True(t, isBase62("aZ09"))
	require.False(t, isBase62("a-"))
	require.False(t, isBase62("ä"))
}

func TestRefreshTokenForm(t *testing.T) {
	t.Parallel()
	id := NewID()
	token := newRefreshToken(id)
	got, ok := sessionOfRefreshToken(token)
	require.True(t, ok)
	require.Equal(t, id, got)
	require.NotEqual(t, token, newRefreshToken(id))
	for _, noise := range []string{"", "rt_", "rt_x_y", "rt_" + id, "rt_" + strings.ToUpper(id) + "_x", "rt_{" + id + "}_x", token + strings.Repeat("x", 256)} {
		_, ok := sessionOfRefreshToken(noise)
		require.False(t, ok, noise)
	}
}

func TestPHC(t *testing.T) {
	t.Parallel()
	for text, valid := range map[string]bool{
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":    true,
		"$argon2id$v=19$m=262144,t=16,p=16$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA": true,
		"": false,
		"$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":       false,
		"$argon2id$v=16$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":      false,
		"$argon2id$v=19$m=262145,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":     false,
		"$argon2id$v=19$m=4294967296,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA": false,
		"$argon2id$v=19$m=19456,t=0,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":      false,
		"$argon2id$v=19$m=19456,t=2,p=0$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":      false,
		"$argon2id$v=19$m=19456,t=2,p=257$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":    false,
		"$argon2id$v=19$m=019456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":     false,
		"$argon2id$v=19$t=2,m=19456,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":      false,
		"$argon2id$v=19$m=19456,t=2,p=1,x=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA":  false,
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaGhhc2hoYXNoaGFzaA":           false,
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA":                      false,
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaB":      false,
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA$":     false,
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$\naGFzaGhhc2hoYXNoaGFzaA":    false,
		"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$" + strings.Repeat("A", 100): false,
	} {
		_, err := parsePHC(text)
		require.Equal(t, valid, err == nil, text)
	}
}

func FuzzPHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA")
	f.Add("$argon2id$v=19$m=8,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePHC(text)
		if err != nil {
			return
		}
		require.Equal(t, text, p.String(), "one hash, one text")
		require.LessOrEqual(t, p.memory, uint32(256<<10))
	})
}

func FuzzAPIKey(f *testing.F) {
	key, _ := newAPIKey(NewID())
	f.Add(key)
	f.Add("sk_0000000_" + strings.Repeat("0", 43) + "_000000")
	f.Fuzz(func(t *testing.T, text string) {
		if checkAPIKey(text) == nil {
			require.Len(t, text, len(key))
			require.NotContains(t, text, " ")
		}
	})
}

func FuzzRefreshToken(f *testing.F) {
	f.Add(newRefreshToken(NewID()))
	f.Add("rt__")
	f.Fuzz(func(t *testing.T, text string) {
		if id, ok := sessionOfRefreshToken(text); ok {
			require.True(t, strings.HasPrefix(text, "rt_"+id+"_"))
			require.Len(t, id, 36)
		}
	})
}

func keyed(t *testing.T, s Secrets) *Handler {
	t.Helper()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s.AccessTTL = 15 * time.Minute
	return &Handler{Secrets: s, keys: deriveKeys(s), Clock: func() time.Time { return now }}
}

func TestAccessToken(t *testing.T) {
	t.Parallel()
	h := keyed(t, Secrets{JWT: []byte("the present secret")})
	token, err := h.accessToken("anna", "session", h.Now())
	require.NoError(t, err)
	c, err := h.parseAccessToken(token)
	require.NoError(t, err)
	require.Equal(t, "anna", c.Subject)
	require.Equal(t, "session", c.Session)

	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	require.NoError(t, err)
	var body map[string]any
	require.NoError(t, json.Unmarshal(payload, &body))
	require.Equal(t, map[string]any{
		"iss": "sparkops", "aud": []any{"sparkops-api"}, "sub": "anna", "sid": "session", "iat": 1772366400.0, "exp": 1772367300.0,
	}, body, "no right is in a token")

	at := h.Now()
	h.Clock = func() time.Time { return at.Add(15*time.Minute + 29*time.Second) }
	_, err = h.parseAccessToken(token)
	require.NoError(t, err, "leeway")
	h.Clock = func() time.Time { return at.Add(15*time.Minute + 31*time.Second) }
	_, err = h.parseAccessToken(token)
	requireFailure(t, err, domain.Unauthorized, "TOKEN_EXPIRED")

	_, err = keyed(t, Secrets{}).accessToken("anna", "session", at)
	require.Error(t, err, "without a secret nothing is signed")
}

func TestSecretRotation(t *testing.T) {
	t.Parallel()
	before := keyed(t, Secrets{JWT: []byte("old secret")})
	token, err := before.accessToken("anna", "session", before.Now())
	require.NoError(t, err)
	rotated := keyed(t, Secrets{JWT: []byte("new secret"), JWTPrevious: []byte("old secret")})
	_, err = rotated.parseAccessToken(token)
	require.NoError(t, err)
	fresh, err := rotated.accessToken("anna", "session", rotated.Now())
	require.NoError(t, err)
	_, err = before.parseAccessToken(fresh)
	requireFailure(t, err, domain.Unauthorized, "TOKEN_INVALID")
	_, err = keyed(t, Secrets{JWT: []byte("new secret")}).parseAccessToken(token)
	requireFailure(t, err, domain.Unauthorized, "TOKEN_INVALID")
	_, err = keyed(t, Secrets{}).parseAccessToken(token)
	requireFailure(t, err, domain.Unauthorized, "TOKEN_INVALID")
}

func TestForgedAccessTokens(t *testing.T) {
	t.Parallel()
	h := keyed(t, Secrets{JWT: []byte("the present secret")})
	now := h.Now()
	sign := func(method jwt.SigningMethod, key any, header map[string]any, change func(jwt.MapClaims)) string {
		body := jwt.MapClaims{"iss": tokenIssuer, "aud": tokenAudience, "sub": "anna", "sid": "s", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
		change(body)
		token := jwt.NewWithClaims(method, body)
		token.Header["typ"], token.Header["kid"] = tokenType, h.keys.signing[0].id
		for k, v := range header {
			token.Header[k] = v
		}
		signed, err := token.SignedString(key)
		require.NoError(t, err)
		return signed
	}
	secret, same := h.Secrets.JWT, func(jwt.MapClaims) {}
	_, err := h.parseAccessToken(sign(jwt.SigningMethodHS256, secret, nil, same))
	require.NoError(t, err)
	good := sign(jwt.SigningMethodHS256, secret, nil, same)
	for name, token := range map[string]string{
		"none":          sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, same),
		"other hash":    sign(jwt.SigningMethodHS512, secret, nil, same),
		"other key":     sign(jwt.SigningMethodHS256, []byte("guess"), nil, same),
		"other kid":     sign(jwt.SigningMethodHS256, secret, map[string]any{"kid": "x"}, same),
		"other type":    sign(jwt.SigningMethodHS256, secret, map[string]any{"typ": "JWT"}, same),
		"no expiry":     sign(jwt.SigningMethodHS256, secret, nil, func(c jwt.MapClaims) { delete(c, "exp") }),
		"issuer":        sign(jwt.SigningMethodHS256, secret, nil, func(c jwt.MapClaims) { c["iss"] = "x" }),
		"audience":      sign(jwt.SigningMethodHS256, secret, nil, func(c jwt.MapClaims) { c["aud"] = "x" }),
		"no subject":    sign(jwt.SigningMethodHS256, secret, nil, func(c jwt.MapClaims) { delete(c, "sub") }),
		"no session":    sign(jwt.SigningMethodHS256, secret, nil, func(c jwt.MapClaims) { delete(c, "sid") }),
		"future":        sign(jwt.SigningMethodHS256, secret, nil, func(c jwt.MapClaims) { c["iat"] = now.Add(time.Hour).Unix() }),
		"expired, fake": sign(jwt.SigningMethodHS256, []byte("guess"), nil, func(c jwt.MapClaims) { c["exp"] = now.Add(-time.Hour).Unix() }),
		"cut":           good[:len(good)-2],
		"empty":         "",
		"noise":         "a.b.c",
	} {
		_, err := h.parseAccessToken(token)
		requireFailure(t, err, domain.Unauthorized, "TOKEN_INVALID")
		require.Error(t, err, name)
	}
}

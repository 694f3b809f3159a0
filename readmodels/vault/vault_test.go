package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	firstMaster  = bytes.Repeat([]byte("first"), 8)
	secondMaster = bytes.Repeat([]byte("second"), 8)
)

func newVault(t testing.TB, s Store, master []byte, previous ...[]byte) *Vault {
	t.Helper()
	v, err := New(s, master, previous...)
	require.NoError(t, err)
	return v
}

func sealed(t *testing.T, v *Vault, subject, plaintext string) string {
	t.Helper()
	text, err := v.Seal(t.Context(), subject, plaintext)
	require.NoError(t, err)
	return text
}

func requireOpens(t *testing.T, v *Vault, subject, text, want string) {
	t.Helper()
	got, err := v.Open(t.Context(), subject, text)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestSealedTextOpensOnEveryNode(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		a, b := newVault(t, open(t), firstMaster), newVault(t, open(t), firstMaster)
		for _, text := range []string{"", "Ada Lovelace", "漢字 \x00\xff", strings.Repeat("long ", 50_000)} {
			s := sealed(t, a, "ada", text)
			require.Regexp(t, `^v1\.[A-Za-z0-9_-]{38,}$`, s)
			requireOpens(t, a, "ada", s, text)
			requireOpens(t, b, "ada", s, text)
			requireOpens(t, a, "ada", sealed(t, b, "ada", text), text)
		}
		require.NotEqual(t, sealed(t, a, "ada", "x"), sealed(t, a, "ada", "x"))

		s := sealed(t, a, "ada", "secret")
		sealed(t, a, "bob", "secret")
		_, err := a.Open(t.Context(), "bob", s)
		require.ErrorIs(t, err, ErrMalformed)
		_, err = a.Open(t.Context(), "nobody", s)
		require.ErrorIs(t, err, ErrNoKey)
	})
}

func TestNothingReadableIsStored(t *testing.T) {
	t.Parallel()
	s := stores["dir"](t)(t)
	v := newVault(t, s, firstMaster)
	sealed(t, v, "ada", "Ada Lovelace")
	r, err := s.Get(t.Context(), "ada")
	require.NoError(t, err)
	require.Len(t, r.Wrapped, 12+32+16)
	require.Len(t, r.KeyID, 16)

	// The wrapped key of one subject is no use as another's.
	_, err = s.PutIfAbsent(t.Context(), Record{Subject: "eve", KeyID: r.KeyID, Wrapped: r.Wrapped})
	require.NoError(t, err)
	_, err = v.Seal(t.Context(), "eve", "x")
	require.ErrorContains(t, err, "the stored key of eve is damaged")
	_, err = s.PutIfAbsent(t.Context(), Record{Subject: "short", KeyID: r.KeyID, Wrapped: []byte{1}})
	require.NoError(t, err)
	_, err = v.Open(t.Context(), "short", "v1.")
	require.ErrorContains(t, err, "the stored key of short is damaged")
}

func TestErasedSubjectIsGoneEverywhereWithinTheTTL(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		a, b := newVault(t, open(t), firstMaster), newVault(t, open(t), firstMaster)
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		b.cache.now = func() time.Time { return now }
		text := sealed(t, a, "ada", "Ada")
		other := sealed(t, a, "bob", "Bob")
		requireOpens(t, b, "ada", text, "Ada")

		require.NoError(t, a.Erase(t.Context(), "ada"))
		require.NoError(t, a.Erase(t.Context(), "ada"))
		_, err := a.Open(t.Context(), "ada", text)
		require.ErrorIs(t, err, ErrErased)
		_, err = a.Open(t.Context(), "ada", "garbage")
		require.ErrorIs(t, err, ErrErased)
		_, err = a.Seal(t.Context(), "ada", "back again")
		require.ErrorIs(t, err, ErrErased)
		requireOpens(t, a, "bob", other, "Bob")

		now = now.Add(CacheTTL / 2)
		requireOpens(t, b, "ada", text, "Ada") // use does not prolong it
		now = now.Add(CacheTTL/2 - 1)
		requireOpens(t, b, "ada", text, "Ada")
		now = now.Add(1)
		_, err = b.Open(t.Context(), "ada", text)
		require.ErrorIs(t, err, ErrErased)
		_, err = b.Seal(t.Context(), "ada", "back again")
		require.ErrorIs(t, err, ErrErased)

		// A subject is erased before it ever had a key, too.
		require.NoError(t, b.Erase(t.Context(), "early"))
		_, err = a.Seal(t.Context(), "early", "x")
		require.ErrorIs(t, err, ErrErased)
	})
}

// racingStore lets a test act between the read of a record and its use. The
// store below it is a real one.
type racingStore struct {
	Store
	afterGet func()
}

func (s racingStore) Get(ctx context.Context, subject string) (Record, error) {
	r, err := s.Store.Get(ctx, subject)
	s.afterGet()
	return r, err
}

func TestKeyReadBeforeAnErasureIsNotCached(t *testing.T) {
	t.Parallel()
	s := stores["dir"](t)(t)
	text := sealed(t, newVault(t, s, firstMaster), "ada", "Ada")
	var v *Vault
	once := true
	v = newVault(t, racingStore{Store: s, afterGet: func() {
		if once {
			once = false
			require.NoError(t, v.Erase(t.Context(), "ada"))
		}
	}}, firstMaster)
	requireOpens(t, v, "ada", text, "Ada") // it was read before
	_, err := v.Open(t.Context(), "ada", text)
	require.ErrorIs(t, err, ErrErased)
}

func TestTwoNodesCreateOneKeyAtOnce(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		const nodes, rounds = 4, 10
		vaults := make([]*Vault, nodes)
		for i := range vaults {
			vaults[i] = newVault(t, open(t), firstMaster)
		}
		for round := range rounds {
			subject := fmt.Sprint("user ", round)
			texts := make([]string, nodes)
			errs := make([]error, nodes)
			atOnce(nodes, func(i int) {
				texts[i], errs[i] = vaults[i].Seal(t.Context(), subject, fmt.Sprint("from ", i))
			})
			for i := range nodes {
				require.NoError(t, errs[i])
			}
			for i := range nodes {
				requireOpens(t, vaults[(i+1)%nodes], subject, texts[i], fmt.Sprint("from ", i))
			}
		}
	})
}

func TestRewrapMovesEveryKeyToTheNewMaster(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		old := newVault(t, open(t), firstMaster)
		texts := map[string]string{}
		for i := range 5 {
			subject := fmt.Sprint("user ", i)
			texts[subject] = sealed(t, old, subject, "text of "+subject)
		}
		require.NoError(t, old.Erase(t.Context(), "user 4"))

		// Not before its time: the new key alone cannot read.
		alone := newVault(t, open(t), secondMaster)
		_, err := alone.Open(t.Context(), "user 0", texts["user 0"])
		require.ErrorIs(t, err, ErrMasterKey)
		require.ErrorContains(t, err, old.masters.current().id)
		require.ErrorIs(t, alone.Rewrap(t.Context(), nil), ErrMasterKey)

		both := newVault(t, open(t), secondMaster, firstMaster)
		requireOpens(t, both, "user 0", texts["user 0"], "text of user 0")
		sealed(t, both, "new", "x")
		var progress []string
		note := func(done, total int) { progress = append(progress, fmt.Sprint(done, "/", total)) }
		require.NoError(t, both.Rewrap(t.Context(), note))
		require.Equal(t, []string{"1/5", "2/5", "3/5", "4/5", "5/5"}, progress)
		require.NoError(t, both.Rewrap(t.Context(), nil))

		alone = newVault(t, open(t), secondMaster)
		for i := range 4 {
			subject := fmt.Sprint("user ", i)
			requireOpens(t, alone, subject, texts[subject], "text of "+subject)
		}
		_, err = alone.Open(t.Context(), "user 4", texts["user 4"])
		require.ErrorIs(t, err, ErrErased)
		_, err = newVault(t, open(t), firstMaster).Open(t.Context(), "user 0", texts["user 0"])
		require.ErrorIs(t, err, ErrMasterKey)
	})
}

func TestRewrapIsSafeBesideOtherNodesAndErasures(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		const subjects, nodes = 20, 3
		old := newVault(t, open(t), firstMaster)
		texts := make([]string, subjects)
		for i := range subjects {
			texts[i] = sealed(t, old, fmt.Sprint("user ", i), fmt.Sprint("text ", i))
		}
		vaults := make([]*Vault, nodes)
		for i := range vaults {
			vaults[i] = newVault(t, open(t), secondMaster, firstMaster)
		}
		errs := make([]error, nodes)
		atOnce(nodes, func(i int) {
			if i > 0 {
				errs[i] = vaults[i].Rewrap(t.Context(), nil)
				return
			}
			for j := 0; j < subjects; j += 2 {
				errs[i] = errors.Join(errs[i], vaults[i].Erase(t.Context(), fmt.Sprint("user ", j)))
			}
		})
		for _, err := range errs {
			require.NoError(t, err)
		}
		fresh := newVault(t, open(t), secondMaster)
		for i := range subjects {
			subject := fmt.Sprint("user ", i)
			if i%2 == 0 {
				_, err := fresh.Open(t.Context(), subject, texts[i])
				require.ErrorIs(t, err, ErrErased)
				continue
			}
			requireOpens(t, fresh, subject, texts[i], fmt.Sprint("text ", i))
		}
	})
}

func TestRewrapStopsWithItsContext(t *testing.T) {
	t.Parallel()
	s := stores["dir"](t)(t)
	v := newVault(t, s, firstMaster)
	sealed(t, v, "a", "x")
	sealed(t, v, "b", "x")
	next := newVault(t, s, secondMaster, firstMaster)
	ctx, cancel := context.WithCancelCause(t.Context())
	err := next.Rewrap(ctx, func(int, int) { cancel(errors.New("enough")) })
	require.ErrorContains(t, err, "enough")
	requireOpens(t, next, "b", sealed(t, v, "b", "still fine"), "still fine")
}

func TestRefusedInput(t *testing.T) {
	t.Parallel()
	s := stores["dir"](t)(t)
	_, err := New(s, nil)
	require.EqualError(t, err, "open vault: the master key has 0 bytes, at least 32 are needed")
	_, err = New(s, firstMaster, secondMaster, []byte("short"))
	require.EqualError(t, err, "open vault: previous master key 2 has 5 bytes, at least 32 are needed")

	v := newVault(t, s, firstMaster)
	for subject, want := range map[string]string{
		"": "is empty", strings.Repeat("x", MaxSubject+1): "longer than 256 bytes", "a\x00b": "is not text", "\xff": "is not text",
	} {
		_, err := v.Seal(t.Context(), subject, "x")
		require.ErrorContains(t, err, want)
		_, err = v.Open(t.Context(), subject, "x")
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, v.Erase(t.Context(), subject), want)
	}

	good := sealed(t, v, "ada", "text")
	for _, bad := range []string{
		"", "v1.", "v1", good[3:], "v2" + good[2:], good[:len(good)-1], good + "A", good + "=", good + "\n", " " + good,
		"v1." + strings.Repeat("A", 38), strings.ToUpper(good), good[:8] + "!" + good[9:],
	} {
		_, err := v.Open(t.Context(), "ada", bad)
		require.ErrorIs(t, err, ErrMalformed, bad)
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(3, time.Minute)
	aead := newAEAD(make([]byte, keySize))
	for i := range 10 {
		c.put(fmt.Sprint(i), aead, c.mark())
	}
	require.Equal(t, []string{"7", "8", "9"}, c.keys.Keys())
	require.Nil(t, c.get("6"))
	require.NotNil(t, c.get("7"))
}

// FuzzOpen tries malformed texts: the only one that opens is the sealed one.
func FuzzOpen(f *testing.F) {
	s, err := DirStore(f.TempDir())
	require.NoError(f, err)
	v := newVault(f, s, firstMaster)
	good, err := v.Seal(context.Background(), "ada", "text")
	require.NoError(f, err)
	for _, seed := range []string{good, "", "v1.", "v1.AAAA", good[:20], good + good, "v1.=" + good[4:]} {
		f.Add("ada", seed)
	}
	f.Add("bob", good)
	f.Add("", good)
	f.Fuzz(func(t *testing.T, subject, text string) {
		got, err := v.Open(context.Background(), subject, text)
		if subject == "ada" && text == good {
			require.NoError(t, err)
			require.Equal(t, "text", got)
			return
		}
		require.Error(t, err)
		require.Empty(t, got)
		if subject == "ada" {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}

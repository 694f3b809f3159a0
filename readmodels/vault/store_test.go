package vault

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// opener returns another handle on the same keys, as another node has it.
type opener func(t *testing.T) Store

// stores names each implementation with a function that makes a new, empty one.
var stores = map[string]func(t *testing.T) opener{
	"dir": func(t *testing.T) opener {
		dir := filepath.Join(t.TempDir(), "keys")
		return func(t *testing.T) Store {
			s, err := DirStore(dir)
			require.NoError(t, err)
			return s
		}
	},
	"postgres": func(t *testing.T) opener {
		dsn := pgtest.Database(t)
		return func(t *testing.T) Store {
			pool, err := pgxpool.New(t.Context(), dsn)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			return PostgresStore(pool)
		}
	},
}

// onEachStore runs a test against both implementations.
func onEachStore(t *testing.T, test func(t *testing.T, open opener)) {
	t.Parallel()
	for name, make := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, make(t))
		})
	}
}

func key(subject, id, wrapped string) Record {
	return Record{Subject: subject, KeyID: id, Wrapped: []byte(wrapped)}
}

func TestStoreContract(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		a, b := open(t), open(t)

		_, err := a.Get(ctx, "ada")
		require.ErrorIs(t, err, ErrNoKey)
		subjects, err := a.List(ctx)
		require.NoError(t, err)
		require.Empty(t, subjects)

		// The first one stays.
		held, err := a.PutIfAbsent(ctx, key("ada", "m1", "one\x00\xff"))
		require.NoError(t, err)
		require.Equal(t, key("ada", "m1", "one\x00\xff"), held)
		held, err = b.PutIfAbsent(ctx, key("ada", "m1", "two"))
		require.NoError(t, err)
		require.Equal(t, key("ada", "m1", "one\x00\xff"), held)
		held, err = b.Get(ctx, "ada")
		require.NoError(t, err)
		require.Equal(t, key("ada", "m1", "one\x00\xff"), held)

		// Replace compares the whole record.
		for _, wrong := range []Record{key("ada", "m2", "one\x00\xff"), key("ada", "m1", "two"), key("bob", "m1", "one\x00\xff")} {
			replaced, err := a.Replace(ctx, wrong, key(wrong.Subject, "m2", "three"))
			require.NoError(t, err)
			require.False(t, replaced)
		}
		replaced, err := a.Replace(ctx, key("ada", "m1", "one\x00\xff"), key("ada", "m2", "three"))
		require.NoError(t, err)
		require.True(t, replaced)
		held, err = b.Get(ctx, "ada")
		require.NoError(t, err)
		require.Equal(t, key("ada", "m2", "three"), held)
		_, err = b.Get(ctx, "bob")
		require.ErrorIs(t, err, ErrNoKey)

		// Subjects are any text.
		strange := "../../etc/passwd ' % _ \\ \n é 漢 🜁"
		for _, subject := range []string{strange, "Zoe", "b", strings.Repeat("x", MaxSubject)} {
			_, err = a.PutIfAbsent(ctx, key(subject, "m1", subject))
			require.NoError(t, err)
		}
		subjects, err = b.List(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{strange, "Zoe", "ada", "b", strings.Repeat("x", MaxSubject)}, subjects)

		// A tombstone is for ever, also that of a subject without a key.
		for _, subject := range []string{"ada", "never seen"} {
			for _, s := range []Store{a, b, a} {
				require.NoError(t, s.Erase(ctx, subject))
			}
			tombstone := Record{Subject: subject, Erased: true}
			held, err = b.Get(ctx, subject)
			require.NoError(t, err)
			require.Equal(t, tombstone, held)
			held, err = b.PutIfAbsent(ctx, key(subject, "m1", "again"))
			require.NoError(t, err)
			require.Equal(t, tombstone, held)
			for _, old := range []Record{tombstone, key(subject, "m2", "three")} {
				replaced, err = a.Replace(ctx, old, key(subject, "m3", "again"))
				require.NoError(t, err)
				require.False(t, replaced)
			}
		}
		subjects, err = b.List(ctx)
		require.NoError(t, err)
		require.NotContains(t, subjects, "ada")
		require.NotContains(t, subjects, "never seen")
	})
}

func TestStoreHeedsTheContext(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := open(t)
		_, err := s.PutIfAbsent(t.Context(), key("ada", "m1", "one"))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = s.Get(ctx, "ada")
		require.ErrorIs(t, err, context.Canceled)
		_, err = s.PutIfAbsent(ctx, key("bob", "m1", "one"))
		require.ErrorIs(t, err, context.Canceled)
		_, err = s.List(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Of several nodes that create one subject's key at once exactly one wins, and
// all learn its key; an erasure in between leaves a tombstone and nothing else.
func TestStoreUnderConcurrency(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		const nodes, rounds = 4, 12
		handles := make([]Store, nodes)
		for i := range handles {
			handles[i] = open(t)
		}
		for round := range rounds {
			subject := fmt.Sprintf("subject %d", round)
			held := make([]Record, nodes)
			errs := make([]error, nodes)
			atOnce(nodes, func(i int) {
				held[i], errs[i] = handles[i].PutIfAbsent(t.Context(), key(subject, "m1", fmt.Sprint("by ", i)))
			})
			for i := range nodes {
				require.NoError(t, errs[i])
				require.Equal(t, held[0], held[i])
			}
			// One replacement of that record succeeds, or the erasure came first.
			replaced := make([]bool, nodes)
			atOnce(nodes, func(i int) {
				if i == 0 {
					errs[i] = handles[i].Erase(t.Context(), subject)
					return
				}
				replaced[i], errs[i] = handles[i].Replace(t.Context(), held[0], key(subject, "m2", fmt.Sprint("by ", i)))
			})
			won := 0
			for i := range nodes {
				require.NoError(t, errs[i])
				if replaced[i] {
					won++
				}
			}
			require.LessOrEqual(t, won, 1)
			got, err := handles[1].Get(t.Context(), subject)
			require.NoError(t, err)
			require.Equal(t, Record{Subject: subject, Erased: true}, got)
		}
	})
}

// atOnce runs n calls at the same time and waits for them.
func atOnce(n int, call func(i int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			call(i)
		})
	}
	done.Wait()
}

func TestDirStoreOnDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "keys")
	s, err := DirStore(dir)
	require.NoError(t, err)
	_, err = s.PutIfAbsent(t.Context(), key("ada", "m1", "one"))
	require.NoError(t, err)

	path := s.(*dirStore).path("ada")
	for name, mode := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), name)
	}

	// What a process killed in the middle leaves is no key, and is swept later.
	fresh, old := filepath.Join(dir, scratch+"fresh"), filepath.Join(dir, scratch+"old")
	for _, left := range []string{fresh, old} {
		require.NoError(t, os.WriteFile(left, []byte(`{"subj`), 0o600))
	}
	long := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(old, long, long))
	s, err = DirStore(dir)
	require.NoError(t, err)
	require.FileExists(t, fresh)
	require.NoFileExists(t, old)
	subjects, err := s.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"ada"}, subjects)

	// The bytes of an erased key are overwritten, not only unlinked.
	same := filepath.Join(dir, "hard link")
	require.NoError(t, os.Link(path, same))
	before, err := os.ReadFile(same)
	require.NoError(t, err)
	require.NoError(t, s.Erase(t.Context(), "ada"))
	after, err := os.ReadFile(same)
	require.NoError(t, err)
	require.Equal(t, make([]byte, len(before)), after)

	// A damaged file is an error, not an absent key that would be made anew.
	_, err = s.PutIfAbsent(t.Context(), key("bob", "m1", "one"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.(*dirStore).path("bob"), []byte("{"), 0o600))
	_, err = s.PutIfAbsent(t.Context(), key("bob", "m1", "two"))
	require.ErrorContains(t, err, "is damaged")
	_, err = s.List(t.Context())
	require.ErrorContains(t, err, "is damaged")
	require.NoError(t, s.Erase(t.Context(), "bob"))
	subjects, err = s.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, subjects)

	require.NoError(t, os.Rename(path, s.(*dirStore).path("eve")))
	_, err = s.Get(t.Context(), "eve")
	require.ErrorContains(t, err, "is another subject's")
}

func TestPostgresStoreIsPreparedByManyAtOnce(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	const nodes = 6
	errs := make([]error, nodes)
	atOnce(nodes, func(i int) {
		pool, err := pgxpool.New(t.Context(), dsn)
		if err == nil {
			defer pool.Close()
			_, err = PostgresStore(pool).List(t.Context())
		}
		errs[i] = err
	})
	for _, err := range errs {
		require.NoError(t, err)
	}

	// A role that may only use the table finds it.
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	defer pool.Close()
	role := "vault_user_" + strings.ToLower(rand.Text()) // roles belong to the whole server
	_, err = pool.Exec(t.Context(), `create role `+role+`; grant usage on schema vault to `+role+`; grant select, insert, update on vault.keys to `+role)
	require.NoError(t, err)
	defer func() {
		_, err := pool.Exec(context.Background(), `drop owned by `+role+`; drop role `+role)
		require.NoError(t, err)
	}()
	config, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["role"] = role
	limited, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer limited.Close()
	s := PostgresStore(limited)
	_, err = s.PutIfAbsent(t.Context(), key("ada", "m1", "one"))
	require.NoError(t, err)
	require.NoError(t, s.Erase(t.Context(), "ada"))
}

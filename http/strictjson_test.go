package http

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		`{}`, ` [1, -2.5e3, true, null, "é\u00e9\ud83d\ude00\n"] `, `"[[[[{{{{"`, `"\"[{\\"`, `0`, `1e308`, `0.0e-400`, `"\\u0000"`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64),
	} {
		require.NoError(t, checkJSON([]byte(good)), good)
	}
	for _, bad := range []string{
		``, `{`, `{"a":1,}`, `{} {}`, `{}x`, `'a'`, `{a:1}`, `NaN`, `01`, `+1`, `"a`, "\"\x01\"", "\xff", "\"\xc3\"", `"\u0000"`, `{"\u0000":1}`,
		`"\ud800"`, `"\ud800\u0041"`, `"\udc00"`, `1e309`, `-1e999`, `1e-999`, strings.Repeat("9", 65), `{"a":1e400000}`,
		strings.Repeat("[", 65) + strings.Repeat("]", 65), strings.Repeat("[", 1<<20), strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65),
	} {
		err := checkJSON([]byte(bad))
		require.Equal(t, domain.Malformed, domain.KindOf(err), "%.40q: %v", bad, err)
	}
}

// Whatever is accepted is JSON that Go reads, nested no deeper than allowed,
// and what it says can be stored in Postgres.
func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2,{"b":"\u0041"}]}`, `[[[[]]]]`, `"\ud83d\ude00"`, `{"a":1e5}`, "\"\\", `"\u00`, `-`, `{"a":"\u0000"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkJSON(data) != nil {
			return
		}
		require.True(t, utf8.Valid(data))
		var value any
		require.NoError(t, json.Unmarshal(data, &value))
		require.LessOrEqual(t, depthOf(value), maxDepth)
		requireStorable(t, value)
	})
}

func depthOf(value any) int {
	deepest := 0
	switch v := value.(type) {
	case []any:
		for _, inner := range v {
			deepest = max(deepest, depthOf(inner))
		}
		return deepest + 1
	case map[string]any:
		for _, inner := range v {
			deepest = max(deepest, depthOf(inner))
		}
		return deepest + 1
	default:
		return 0
	}
}

func requireStorable(t *testing.T, value any) {
	switch v := value.(type) {
	case string:
		require.NotContains(t, v, "\x00")
	case []any:
		for _, inner := range v {
			requireStorable(t, inner)
		}
	case map[string]any:
		for key, inner := range v {
			require.NotContains(t, key, "\x00")
			requireStorable(t, inner)
		}
	}
}

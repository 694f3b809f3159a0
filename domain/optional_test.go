package domain_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestOptionalTellsAbsentNullAndValueApart(t *testing.T) {
	t.Parallel()
	type body struct {
		A domain.Optional[string]          `json:"a,omitzero"`
		B domain.Optional[int]             `json:"b,omitzero"`
		C domain.Optional[json.RawMessage] `json:"c,omitzero"`
	}
	var got body
	require.NoError(t, json.Unmarshal([]byte(`{"a":"x","b": null}`), &got))
	require.Equal(t, body{A: domain.Some("x"), B: domain.Cleared[int]()}, got)
	require.Equal(t, "x", got.A.Or("before"))
	require.Equal(t, 0, got.B.Or(7))
	require.Equal(t, json.RawMessage("before"), got.C.Or(json.RawMessage("before")))

	raw, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, `{"a":"x","b":null}`, string(raw))
	require.Error(t, json.Unmarshal([]byte(`{"b":"x"}`), &got))
}

func TestCanonicalIsWhatStoringMakesOfIt(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		``: ``, ` null `: ``, `{ "b": 1, "a": "<" }`: `{"b":1,"a":"\u003c"}`, `{"a":"\u003c"}`: `{"a":"\u003c"}`, `{`: `{`,
	} {
		require.Equal(t, want, string(domain.Canonical(json.RawMessage(given))), "%q", given)
	}
	require.Nil(t, domain.Canonical(json.RawMessage(`null`)))
}

func TestBroken(t *testing.T) {
	t.Parallel()
	var b domain.Broken
	b.Name("ok", "Zoë")
	b.Text("ok", "two\nlines", 0, 9)
	b.Object("ok", json.RawMessage(` {"a":1}`))
	b.Object("ok", nil)
	b.Strings("ok", []string{"a", "b"}, 2, 1)
	b.OneOf("ok", "a", "a", "b")
	b.Between("ok", 1, 1, 1)
	require.NoError(t, b.Err())

	b.Name("name", strings.Repeat("x", 256))
	b.Name("line", "a\tb")
	b.Text("short", "a", 2, 3)
	b.Text("long", "abcd", 0, 3)
	b.Text("bell", "\a", 0, 3)
	b.Object("list", json.RawMessage(`[]`))
	b.Object("broken", json.RawMessage(`{"a":}`))
	b.Object("big", json.RawMessage(`{"a":"`+strings.Repeat("x", 64<<10)+`"}`))
	b.Strings("many", []string{"a", "b"}, 1, 1)
	b.Strings("twice", []string{"a", "a"}, 2, 1)
	b.OneOf("enum", "c", "a", "b")
	b.Between("number", 2, 3, 4)
	require.Equal(t, domain.Broken{
		{Field: "name", Message: "must be 1 to 255 characters long"},
		{Field: "line", Message: "must not contain control characters"},
		{Field: "short", Message: "must be 2 to 3 characters long"},
		{Field: "long", Message: "must be at most 3 characters long"},
		{Field: "bell", Message: "must not contain control characters"},
		{Field: "list", Message: "must be a JSON object"},
		{Field: "broken", Message: "must be a JSON object"},
		{Field: "big", Message: "must be at most 64 KiB of JSON"},
		{Field: "many", Message: "must have at most 1 entries"},
		{Field: "twice[1]", Message: "must not be repeated"},
		{Field: "enum", Message: "must be one of a, b"},
		{Field: "number", Message: "must be 3 to 4"},
	}, b)
	require.Equal(t, domain.Invalid, domain.KindOf(b.Err()))
}

func TestUnknownAndForeignLookAlike(t *testing.T) {
	t.Parallel()
	stranger := domain.Actor{Kind: domain.ActorUser, ID: "x", Role: domain.Developer}
	unknown := stranger.Authorize(domain.NeedIn("agents:write", "", false))
	foreign := stranger.Authorize(domain.NeedIn("agents:write", "p1", true))
	require.Equal(t, domain.Missing(), unknown)
	require.Equal(t, unknown, foreign)
}

package llm

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sparkops/control-plane/domain"
)

func day(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestPrice(t *testing.T) {
	t.Parallel()
	noon := day("2026-11-01T12:00:00Z")
	tests := []struct {
		name            string
		provider, model string
		at              time.Time
		usage           domain.Usage
		amount          domain.Nanos
		version         string
	}{
		{"plain", "openai", "gpt-4o", noon, domain.Usage{Input: 1000, Output: 100}, 2_500_000 + 1_000_000, "genai-prices@0.1.8:openai/gpt-4o"},
		{"all buckets", "openai", "gpt-4o", noon, domain.Usage{Input: 10, CacheRead: 4, CacheWrite: 2, Output: 3, Reasoning: 5}, 10*2500 + 4*1250 + 2*2500 + 8*10_000, "genai-prices@0.1.8:openai/gpt-4o"},
		{"case and space do not count", " OpenAI ", "GPT-4o", noon, domain.Usage{Input: 1}, 2500, "genai-prices@0.1.8:openai/gpt-4o"},
		{"before a price cut", "openai", "o3", day("2025-06-09T23:59:59Z"), domain.Usage{Input: 1, Output: 1}, 10_000 + 40_000, "genai-prices@0.1.8:openai/o3"},
		{"from the day of a price cut", "openai", "o3", day("2025-06-10T00:00:00Z"), domain.Usage{Input: 1, Output: 1}, 2_000 + 8_000, "genai-prices@0.1.8:openai/o3"},
		{"prompt at the tier's bound", "anthropic", "claude-opus-4-6", day("2026-03-12T00:00:00Z"), domain.Usage{Input: 200_000, Output: 1}, 200_000*5_000 + 25_000, "genai-prices@0.1.8:anthropic/claude-opus-4-6"},
		{"prompt above the tier's bound", "anthropic", "claude-opus-4-6", day("2026-03-12T00:00:00Z"), domain.Usage{Input: 200_000, CacheRead: 1, Output: 1}, 200_000*10_000 + 1_000 + 37_500, "genai-prices@0.1.8:anthropic/claude-opus-4-6"},
		{"by the hour of the day", "deepseek", "deepseek-chat", day("2026-11-01T16:29:59Z"), domain.Usage{Input: 1}, 270, "genai-prices@0.1.8:deepseek/deepseek-chat"},
		{"outside those hours", "deepseek", "deepseek-chat", day("2026-11-01T16:30:00Z"), domain.Usage{Input: 1}, 135, "genai-prices@0.1.8:deepseek/deepseek-chat"},
		{"model of another provider", "openai", "claude-3-5-haiku-latest", noon, domain.Usage{Input: 1}, 800, "genai-prices@0.1.8:anthropic/claude-3-5-haiku-latest"},
		{"unknown provider", "my-gateway", "gpt-4o", noon, domain.Usage{Input: 1}, 2500, "genai-prices@0.1.8:openai/gpt-4o"},
		{"simulated, priced like the model", "simulated", "gpt-4o", noon, domain.Usage{Input: 1}, 2500, "genai-prices@0.1.8:openai/gpt-4o"},
		{"rounded up once", "deepseek", "deepseek-chat", day("2026-11-01T20:00:00Z"), domain.Usage{CacheRead: 1, Output: 1}, 585, "genai-prices@0.1.8:deepseek/deepseek-chat"},
		{"part of a nano counts as one", "deepseek", "deepseek-v4-flash", day("2026-01-01T20:00:00Z"), domain.Usage{CacheRead: 1}, 3, "genai-prices@0.1.8:deepseek/deepseek-v4-flash"},
		{"nothing used", "openai", "gpt-4o", noon, domain.Usage{}, 0, "genai-prices@0.1.8:openai/gpt-4o"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			amount, version, known := Price(tt.provider, tt.model, tt.at, tt.usage)
			require.True(t, known)
			require.Equal(t, tt.amount, amount)
			require.Equal(t, tt.version, version)
		})
	}
}

func TestPriceOfAnUnknownModel(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"", "my-own-model", "simulated"} {
		amount, version, known := Price("openai", model, day("2026-11-01T00:00:00Z"), domain.Usage{Input: 1000})
		require.False(t, known, model)
		require.Zero(t, amount)
		require.Empty(t, version)
	}
}

// Every price, for every usage, equals the same sum done with big integers.
func TestCostIsExact(t *testing.T) {
	t.Parallel()
	list := catalogue()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(list.Providers).Draw(t, "provider")
		if len(p.Models) == 0 {
			t.Skip("a provider without token prices")
		}
		m := rapid.SampledFrom(p.Models).Draw(t, "model")
		r := rapid.SampledFrom(m.Prices).Draw(t, "period").Rates
		tokens := rapid.OneOf(rapid.Int64Range(0, 2_000_000), rapid.Int64Range(0, math.MaxInt64/8))
		u := domain.Usage{
			Input: tokens.Draw(t, "input"), CacheRead: tokens.Draw(t, "cacheRead"), CacheWrite: tokens.Draw(t, "cacheWrite"),
			Output: tokens.Draw(t, "output"), Reasoning: tokens.Draw(t, "reasoning"),
		}
		sum := new(big.Int)
		for _, part := range []struct {
			tokens int64
			rate   *rate
		}{
			{u.Input, r.Input}, {u.CacheRead, first(r.CacheRead, r.Input)}, {u.CacheWrite, first(r.CacheWrite, r.Input)},
			{u.Output, r.Output}, {u.Reasoning, first(r.Reasoning, r.Output)},
		} {
			sum.Add(sum, new(big.Int).Mul(big.NewInt(part.tokens), big.NewInt(part.rate.of(u.Prompt()))))
		}
		want := sum.Add(sum, big.NewInt(999)).Quo(sum, big.NewInt(1000))
		got := r.cost(u)
		if !want.IsInt64() {
			require.Equal(t, domain.Nanos(math.MaxInt64), got)
			return
		}
		require.Equal(t, want.Int64(), int64(got))
	})
}

// A longer usage never costs less within one tier, and parts never cost less
// than the whole.
func TestCostOfPartsCoversTheWhole(t *testing.T) {
	t.Parallel()
	r := catalogue().mustFind("openai", "gpt-4o").at(day("2026-11-01T00:00:00Z"))
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.Int64Range(0, 1_000_000)
		a := domain.Usage{Input: tokens.Draw(t, "a in"), Output: tokens.Draw(t, "a out"), CacheRead: tokens.Draw(t, "a read")}
		b := domain.Usage{Input: tokens.Draw(t, "b in"), Output: tokens.Draw(t, "b out"), CacheRead: tokens.Draw(t, "b read")}
		require.GreaterOrEqual(t, r.cost(a)+r.cost(b), r.cost(a.Add(b)))
		require.GreaterOrEqual(t, r.cost(a.Add(b)), r.cost(a))
	})
}

func (l *priceList) mustFind(provider, model string) *priceModel {
	_, m := l.find(provider, model)
	if m == nil {
		panic("no such model")
	}
	return m
}

// Each model of each provider is found under the names its own rule lists.
func TestEveryExactNameFindsAModelOfItsProvider(t *testing.T) {
	t.Parallel()
	list := catalogue()
	require.Greater(t, len(list.Providers), 30)
	var walk func(r *matchRule, each func(string))
	walk = func(r *matchRule, each func(string)) {
		if r.Equals != "" {
			each(r.Equals)
		}
		for _, sub := range r.Or {
			walk(sub, each)
		}
	}
	count := 0
	for _, p := range list.Providers {
		for _, m := range p.Models {
			require.NotEmpty(t, m.Prices, "%s/%s", p.ID, m.ID)
			walk(m.Match, func(name string) {
				owner, found := list.find(p.ID, name)
				require.NotNil(t, found, "%s/%s as %s", p.ID, m.ID, name)
				require.Equal(t, p.ID, owner.ID)
				count++
			})
		}
	}
	require.Greater(t, count, 1500)
}

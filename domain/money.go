package domain

import "math"

// Nanos is an amount of money in nano-USD (1e-9 USD). int64 holds about nine
// billion USD, so sums of runs, projects and years fit.
type Nanos int64

// NanosPerUSD is the number of nano-USD in one USD.
const NanosPerUSD = 1_000_000_000

// USD returns the amount as a number of USD, for the frontend's usdCost.
func (n Nanos) USD() float64 { return float64(n) / NanosPerUSD }

// Add returns n+m, saturating instead of wrapping around.
func (n Nanos) Add(m Nanos) Nanos {
	switch {
	case m > 0 && n > math.MaxInt64-m:
		return math.MaxInt64
	case m < 0 && n < math.MinInt64-m:
		return math.MinInt64
	default:
		return n + m
	}
}

// Usage counts the tokens of model calls in five disjoint buckets.
type Usage struct {
	Input      int64 `json:"input"`      // uncached input
	CacheRead  int64 `json:"cacheRead"`  // input served from the provider's cache
	CacheWrite int64 `json:"cacheWrite"` // input written to the provider's cache
	Output     int64 `json:"output"`     // visible output
	Reasoning  int64 `json:"reasoning"`  // output spent on reasoning
}

// Add returns the sum of both, bucket by bucket.
func (u Usage) Add(v Usage) Usage {
	return Usage{
		Input: u.Input + v.Input, CacheRead: u.CacheRead + v.CacheRead, CacheWrite: u.CacheWrite + v.CacheWrite,
		Output: u.Output + v.Output, Reasoning: u.Reasoning + v.Reasoning,
	}
}

// Prompt returns all input tokens, Completion all output tokens.
func (u Usage) Prompt() int64     { return u.Input + u.CacheRead + u.CacheWrite }
func (u Usage) Completion() int64 { return u.Output + u.Reasoning }

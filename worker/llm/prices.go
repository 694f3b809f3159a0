package llm

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sparkops/control-plane/domain"
)

//go:embed prices.json
var priceData []byte

// catalogue is the committed price list. It is parsed at the first price asked
// for and only read afterwards.
var catalogue = sync.OnceValue(func() *priceList {
	list, err := parsePrices(priceData)
	if err != nil {
		panic("llm: the committed price list: " + err.Error())
	}
	return list
})

// Price returns what a call cost at a time by the committed price list, and the
// version of the list together with the provider and model that matched, for
// example "genai-prices@0.1.8:openai/gpt-4o". A provider that does not fit the
// model, or that the list does not have, falls back to the provider the model's
// name belongs to. known is false, and the amount zero, for a model without a
// price.
//
// The arithmetic is exact: prices are whole pico-USD per token, the sum over
// the buckets is 128 bits wide, and it is rounded once, up to the next
// nano-USD. Tokens of a bucket without a price of its own are charged as plain
// input or output. An amount beyond int64 saturates.
func Price(provider, model string, at time.Time, u domain.Usage) (amount domain.Nanos, rateVersion string, known bool) {
	list := catalogue()
	p, m := list.find(provider, model)
	if m == nil {
		return 0, "", false
	}
	return m.at(at).cost(u), list.Version + ":" + p.ID + "/" + m.ID, true
}

type priceList struct {
	Version   string           `json:"version"`
	Providers []*priceProvider `json:"providers"`
}

type priceProvider struct {
	ID         string        `json:"id"`
	Match      *matchRule    `json:"match"`
	ModelMatch *matchRule    `json:"modelMatch"`
	Fallback   []string      `json:"fallback"`
	Models     []*priceModel `json:"models"`
}

type priceModel struct {
	ID     string        `json:"id"`
	Match  *matchRule    `json:"match"`
	Prices []pricePeriod `json:"prices"`
}

// pricePeriod is valid from a day on, or daily between two seconds of the UTC
// day; without either it is what holds when no later period does.
type pricePeriod struct {
	From  string    `json:"from"`
	Daily []int     `json:"daily"`
	Rates rates     `json:"rates"`
	from  time.Time // From, parsed
}

type rates struct {
	Input      *rate `json:"input"`
	CacheRead  *rate `json:"cacheRead"`
	CacheWrite *rate `json:"cacheWrite"`
	Output     *rate `json:"output"`
	Reasoning  *rate `json:"reasoning"`
}

// rate is a price in pico-USD per token. A tier replaces the base for all
// tokens of the call once its prompt is longer than the tier's bound.
type rate struct {
	Base  int64      `json:"base"`
	Tiers []rateTier `json:"tiers"`
}

type rateTier struct {
	Above int64 `json:"above"`
	Price int64 `json:"price"`
}

type matchRule struct {
	Or         []*matchRule `json:"or"`
	And        []*matchRule `json:"and"`
	Not        *matchRule   `json:"not"`
	Equals     string       `json:"equals"`
	StartsWith string       `json:"starts_with"`
	EndsWith   string       `json:"ends_with"`
	Contains   string       `json:"contains"`
	Regex      string       `json:"regex"`
	regex      *regexp.Regexp
}

func parsePrices(data []byte) (*priceList, error) {
	var list priceList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	for _, p := range list.Providers {
		for _, rule := range []*matchRule{p.Match, p.ModelMatch} {
			if err := rule.prepare(); err != nil {
				return nil, fmt.Errorf("provider %s: %w", p.ID, err)
			}
		}
		for _, m := range p.Models {
			if err := m.Match.prepare(); err != nil {
				return nil, fmt.Errorf("model %s/%s: %w", p.ID, m.ID, err)
			}
			for i := range m.Prices {
				if m.Prices[i].From == "" {
					continue
				}
				from, err := time.Parse(time.DateOnly, m.Prices[i].From)
				if err != nil {
					return nil, fmt.Errorf("model %s/%s: %w", p.ID, m.ID, err)
				}
				m.Prices[i].from = from
			}
		}
	}
	return &list, nil
}

// prepare lowers and compiles the rule; matches expects names in lower case.
func (r *matchRule) prepare() error {
	if r == nil {
		return nil
	}
	for _, sub := range append(append([]*matchRule{r.Not}, r.Or...), r.And...) {
		if err := sub.prepare(); err != nil {
			return err
		}
	}
	r.Equals, r.StartsWith = strings.ToLower(r.Equals), strings.ToLower(r.StartsWith)
	r.EndsWith, r.Contains = strings.ToLower(r.EndsWith), strings.ToLower(r.Contains)
	if r.Regex == "" {
		return nil
	}
	var err error
	r.regex, err = regexp.Compile(r.Regex)
	return err
}

func (r *matchRule) matches(name string) bool {
	switch {
	case r == nil:
		return false
	case r.Or != nil:
		for _, sub := range r.Or {
			if sub.matches(name) {
				return true
			}
		}
		return false
	case r.And != nil:
		for _, sub := range r.And {
			if !sub.matches(name) {
				return false
			}
		}
		return true
	case r.Not != nil:
		return !r.Not.matches(name)
	case r.Equals != "":
		return name == r.Equals
	case r.StartsWith != "":
		return strings.HasPrefix(name, r.StartsWith)
	case r.EndsWith != "":
		return strings.HasSuffix(name, r.EndsWith)
	case r.Contains != "":
		return strings.Contains(name, r.Contains)
	default:
		return r.regex != nil && r.regex.MatchString(name)
	}
}

// compactDate finds dates such as -20250514 in model names; the list has some
// of them as -2025-05-14.
var compactDate = regexp.MustCompile(`-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(-|:|$)`)

func (l *priceList) find(provider, model string) (*priceProvider, *priceModel) {
	provider, model = strings.ToLower(strings.TrimSpace(provider)), strings.ToLower(strings.TrimSpace(model))
	for _, p := range []*priceProvider{l.provider(provider), l.providerOf(model)} {
		if p == nil {
			continue
		}
		if owner, m := l.model(p, model); m != nil {
			return owner, m
		}
		if dated := compactDate.ReplaceAllString(model, "-$1-$2-$3$4"); dated != model {
			if owner, m := l.model(p, dated); m != nil {
				return owner, m
			}
		}
	}
	return nil, nil
}

func (l *priceList) provider(name string) *priceProvider {
	if name == "" {
		return nil
	}
	for _, p := range l.Providers {
		if p.ID == name {
			return p
		}
	}
	for _, p := range l.Providers {
		if p.Match.matches(name) {
			return p
		}
	}
	return nil
}

func (l *priceList) providerOf(model string) *priceProvider {
	for _, p := range l.Providers {
		if p.ModelMatch.matches(model) {
			return p
		}
	}
	return nil
}

func (l *priceList) model(p *priceProvider, model string) (*priceProvider, *priceModel) {
	for _, m := range p.Models {
		if m.Match.matches(model) {
			return p, m
		}
	}
	for _, id := range p.Fallback {
		for _, other := range l.Providers {
			if other.ID != id {
				continue
			}
			for _, m := range other.Models {
				if m.Match.matches(model) {
					return other, m
				}
			}
		}
	}
	return nil, nil
}

// at returns the rates of the last period that holds at t.
func (m *priceModel) at(t time.Time) rates {
	t = t.UTC()
	second := t.Hour()*3600 + t.Minute()*60 + t.Second()
	for i := len(m.Prices) - 1; i >= 0; i-- {
		p := m.Prices[i]
		switch {
		case len(p.Daily) == 2:
			from, to := p.Daily[0], p.Daily[1]
			if from <= to && from <= second && second < to || to < from && (second >= from || second < to) {
				return p.Rates
			}
		case p.From == "" || !t.Before(p.from):
			return p.Rates
		}
	}
	return m.Prices[0].Rates
}

func (r rates) cost(u domain.Usage) domain.Nanos {
	prompt := u.Prompt()
	var sum pico
	sum.add(u.Input, r.Input.of(prompt))
	sum.add(u.CacheRead, first(r.CacheRead, r.Input).of(prompt))
	sum.add(u.CacheWrite, first(r.CacheWrite, r.Input).of(prompt))
	sum.add(u.Output, r.Output.of(prompt))
	sum.add(u.Reasoning, first(r.Reasoning, r.Output).of(prompt))
	return sum.nanos()
}

func first(a, b *rate) *rate {
	if a != nil {
		return a
	}
	return b
}

func (r *rate) of(prompt int64) int64 {
	if r == nil {
		return 0
	}
	price := r.Base
	for _, t := range r.Tiers {
		if prompt > t.Above {
			price = t.Price
		}
	}
	return price
}

// pico is an unsigned 128-bit sum of pico-USD.
type pico struct{ hi, lo uint64 }

func (p *pico) add(tokens, price int64) {
	if tokens <= 0 || price <= 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(tokens), uint64(price))
	var carry uint64
	p.lo, carry = bits.Add64(p.lo, lo, 0)
	p.hi, _ = bits.Add64(p.hi, hi, carry)
}

func (p pico) nanos() domain.Nanos {
	const perNano = 1000
	lo, carry := bits.Add64(p.lo, perNano-1, 0)
	hi := p.hi + carry
	if hi >= perNano {
		return math.MaxInt64
	}
	quotient, _ := bits.Div64(hi, lo, perNano)
	if quotient > math.MaxInt64 {
		return math.MaxInt64
	}
	return domain.Nanos(quotient)
}

package embedded

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
)

// filter selects events of $all by the name of their stream or by their type.
type filter struct {
	byType   bool
	regex    *regexp.Regexp
	prefixes []string
	interval int // events considered between two checkpoints
}

// defaultWindow is the search window where a client asks for none.
const defaultWindow = 32

// parseFilter returns nil when the request has no filter.
func parseFilter(options *streams.ReadReq_Options) (*filter, error) {
	asked := options.GetFilter()
	if asked == nil {
		return nil, nil
	}
	f := &filter{}
	var expression *streams.ReadReq_Options_FilterOptions_Expression
	switch by := asked.GetFilter().(type) {
	case *streams.ReadReq_Options_FilterOptions_EventType:
		f.byType, expression = true, by.EventType
	case *streams.ReadReq_Options_FilterOptions_StreamIdentifier:
		expression = by.StreamIdentifier
	default:
		return nil, invalidArgument("the filter names neither stream nor event type")
	}
	switch {
	case expression.GetRegex() != "":
		regex, err := regexp.Compile(expression.GetRegex())
		if err != nil {
			return nil, invalidArgument(fmt.Sprintf(
				"filter regex is not supported here (RE2 syntax: no look-around, no back-references): %v", err))
		}
		f.regex = regex
	case len(expression.GetPrefix()) > 0:
		f.prefixes = expression.GetPrefix()
	default:
		return nil, invalidArgument("the filter has neither a regex nor prefixes")
	}
	window := uint64(defaultWindow)
	if arm, ok := asked.GetWindow().(*streams.ReadReq_Options_FilterOptions_Max); ok {
		if window = uint64(arm.Max); window == 0 {
			return nil, invalidArgument("the filter's search window must be positive")
		}
	}
	if options.GetSubscription() != nil {
		multiplier := uint64(asked.GetCheckpointIntervalMultiplier())
		if multiplier == 0 {
			return nil, handlerFailure()
		}
		f.interval = int(min(window*multiplier, 1<<31))
	}
	return f, nil
}

func (f *filter) matches(r *record) bool {
	if f == nil {
		return true
	}
	subject := r.stream
	if f.byType {
		subject = r.eventType
	}
	if f.regex != nil {
		return f.regex.MatchString(subject)
	}
	for _, prefix := range f.prefixes {
		if strings.HasPrefix(subject, prefix) {
			return true
		}
	}
	return false
}

func (f *filter) matchesView(v *recordView) bool {
	if f == nil {
		return true
	}
	subject := v.stream
	if f.byType {
		subject = v.eventType
	}
	if f.regex != nil {
		return f.regex.Match(subject)
	}
	for _, prefix := range f.prefixes {
		if len(subject) >= len(prefix) && string(subject[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// searchProgress counts the events that a filter looked at and tells when a checkpoint is due. A checkpoint always
// names an existing event that was considered, so resuming after it skips nothing.
type searchProgress struct {
	interval   int
	considered int    // since the last checkpoint
	last       uint64 // position considered last
	reported   uint64 // position of the last checkpoint
}

func (p *searchProgress) step(position uint64) (due bool) {
	p.last = position
	p.considered++
	return p.considered >= p.interval && p.report()
}

// report says whether a checkpoint at the last considered event would be news, and counts it as sent.
func (p *searchProgress) report() bool {
	p.considered = 0
	if p.last <= p.reported {
		return false
	}
	p.reported = p.last
	return true
}

package workflow

import (
	"encoding/json"
	"errors"
	"math"
	"time"
)

// Duration is a span of time written in JSON as a Go duration string ("1m30s")
// and read from such a string or from a number of seconds.
type Duration time.Duration

// Unreadable is what a text that is no duration is read as. It is negative, so
// that a check of the whole document can say where it stands.
const Unreadable = Duration(math.MinInt64)

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalJSON writes the duration string.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads a duration string or a number of seconds. Of those, what
// is no duration or out of range is Unreadable; anything else is an error.
func (d *Duration) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		parsed, err := time.ParseDuration(text)
		if err != nil {
			parsed = time.Duration(Unreadable)
		}
		*d = Duration(parsed)
		return nil
	}
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return errors.New("a duration is a string such as \"30s\" or a number of seconds")
	}
	if *d = Unreadable; math.Abs(seconds) <= 1<<33 {
		*d = Duration(seconds * float64(time.Second))
	}
	return nil
}

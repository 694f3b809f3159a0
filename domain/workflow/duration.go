package workflow

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a span of time written in JSON as a Go duration string ("1m30s")
// and read from such a string or from a number of seconds.
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalJSON writes the duration string.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads a duration string or a number of seconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		parsed, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("not a duration such as \"30s\", \"5m\" or \"1h30m\"")
		}
		*d = Duration(parsed)
		return nil
	}
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return fmt.Errorf("a duration is a string such as \"30s\" or a number of seconds")
	}
	if seconds > float64(1<<33) || seconds < -float64(1<<33) {
		return fmt.Errorf("a duration of that many seconds is out of range")
	}
	*d = Duration(seconds * float64(time.Second))
	return nil
}

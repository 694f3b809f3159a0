package main

import (
	"sync/atomic"
	"time"
)

// clock is the process's clock. Only --unsafe-test-clock gives anybody the
// means to move it; without, it is the machine's.
type clock struct{ offset atomic.Int64 }

// Now returns the present time in UTC.
func (c *clock) Now() time.Time {
	return time.Now().Add(time.Duration(c.offset.Load())).UTC()
}

// Advance moves the clock forward and returns the new time.
func (c *clock) Advance(d time.Duration) time.Time {
	c.offset.Add(int64(d))
	return c.Now()
}

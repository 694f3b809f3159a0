package eventstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/eventstore"
)

// BenchmarkStoreAppend appends one event of some 100 bytes at a time, with so
// many writers, each to a stream of its own.
func BenchmarkStoreAppend(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			options := nodeOptions()
			options.Dir, options.MinFreeBytes = b.TempDir(), 1
			c := contract{Store: openStore(b, openNode(b, options).ConnectionString(), testRegistry()), category: "bench"}
			require.NoError(b, c.Ping(b.Context()))
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan error, writers)
			b.ReportAllocs()
			b.ResetTimer()
			for range writers {
				go func() {
					stream, revision := c.stream(), eventstore.NoStream
					for left.Add(-1) >= 0 {
						appended, err := c.Append(b.Context(), stream, revision, command(), noted{Text: "something of a usual size happened", N: 17})
						if err != nil {
							done <- err
							return
						}
						revision = appended.Revision
					}
					done <- nil
				}()
			}
			for range writers {
				require.NoError(b, <-done)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}

// BenchmarkStoreRead reads and decodes a stream of 10,000 events.
func BenchmarkStoreRead(b *testing.B) {
	c := contract{Store: openStore(b, openNode(b, nodeOptions()).ConnectionString(), testRegistry()), category: "bench"}
	stream := c.stream()
	const count = 10_000
	for i := 0; i < count; i += 1000 {
		c.add(b, stream, eventstore.Revision(i)-1, make([]string, 1000)...)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		_, err := c.Read(b.Context(), stream, 0, func(eventstore.Recorded) error { n++; return nil })
		require.NoError(b, err)
		require.Equal(b, count, n)
	}
	b.ReportMetric(float64(b.N*count)/b.Elapsed().Seconds(), "events/s")
}

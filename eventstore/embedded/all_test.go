package embedded_test

import (
	"fmt"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// TestSection51Positions: positions grow with gaps, survive a restart and are never used twice.
func TestSection51Positions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := openNode(t, embedded.Options{Dir: dir})
	require.Zero(t, node.LastPosition())
	var appended []uint64
	for round := range 4 {
		w := dial(t, node)
		for i := range 5 {
			appended = append(appended, w.mustAppend(fmt.Sprintf("s-%d", i), anyRevision, events(100*round+i+1)...))
		}
		require.Equal(t, appended[len(appended)-1], node.LastPosition())
		require.Equal(t, appended, positions(w.read(allRead(fromStart, false, everything))))
		require.NoError(t, node.Close())
		node = openNode(t, embedded.Options{Dir: dir})
		require.Equal(t, appended[len(appended)-1], node.LastPosition())
	}
	for i := range appended[1:] {
		require.Greater(t, appended[i+1], appended[i]+1, "positions are not dense")
	}
}

// TestSection51ReadAll reads $all from every kind of position.
func TestSection51ReadAll(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, twin := dial(t, openNode(t, embedded.Options{Now: clock.Now})), dial(t, openNode(t, embedded.Options{Now: clock.Now}))
	require.Empty(t, w.read(allRead(fromStart, false, 10)))
	require.Empty(t, w.read(allRead(fromEnd, true, 10)))
	for _, node := range []*wire{w, twin} {
		node.mustAppend("a", noStream, events(0, 1, 2)...)
		node.mustAppend("b", noStream, events(3)...)
	}
	all := positions(w.read(allRead(fromStart, false, everything)))
	require.Len(t, all, 4)
	end := int64(twin.mustAppend("c", noStream, events(4)...)) // the twin is one event ahead
	table := []struct {
		name      string
		from      int64
		backwards bool
		count     uint64
		want      []uint64
	}{
		{"from a position, inclusive", int64(all[1]), false, everything, all[1:]},
		{"from a position, one", int64(all[1]), false, 1, all[1:2]},
		{"from zero", 0, false, everything, all},
		{"from the end", fromEnd, false, everything, all[4:]},
		{"from where the next event will be", end, false, everything, all[4:]},
		{"backwards from a position, exclusive", int64(all[2]), true, everything, []uint64{all[1], all[0]}},
		{"backwards from the first", int64(all[0]), true, everything, all[4:]},
		{"backwards from where the next event will be", end, true, 1, all[3:]},
		{"backwards from the end", fromEnd, true, 2, []uint64{all[3], all[2]}},
		{"backwards from the start", fromStart, true, everything, all[4:]},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, positions(w.read(allRead(row.from, row.backwards, row.count))))
		})
	}
}

// TestSection3InvalidPosition refuses positions at which no event ever began.
func TestSection3InvalidPosition(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("a", noStream, events(0, 1)...)
	all := positions(w.read(allRead(fromStart, false, everything)))
	for _, position := range []uint64{1, all[0] - 1, all[0] + 1, all[1] + 1, 1 << 40} {
		for _, backwards := range []bool{false, true} {
			_, trailers, err := w.messages(allRead(int64(position), backwards, 1))
			requireFault(t, err, trailers, codes.InvalidArgument, nil)
			require.ErrorContains(t, err, "Trying to read from an invalid position.")
		}
		_, trailers, err := w.messages(subscribing(allRead(int64(position), false, 1)))
		requireFault(t, err, trailers, codes.InvalidArgument, nil)
	}
	pair := func(commit, prepare uint64) *streams.ReadReq {
		request := allRead(0, false, everything)
		position := request.Options.GetAll().GetPosition()
		position.CommitPosition, position.PreparePosition = commit, prepare
		return request
	}
	_, trailers, err := w.messages(pair(all[0], all[1]))
	requireFault(t, err, trailers, codes.Unknown, nil)
	require.Equal(t, all[1:], positions(w.read(pair(all[1], all[0]))), "prepare before commit comes before the event")
	require.Empty(t, w.read(pair(everything, everything)), "MaxUint64 means the end")
}

// TestSection51Atomicity: the events of one append are neighbours in $all whatever else is written.
func TestSection51Atomicity(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{Dir: t.TempDir()}))
	const writers, appends, size = 8, 20, 5
	failures := make(chan error, writers)
	for writer := range writers {
		go func() {
			var failure error
			for i := range appends {
				batch := make([]event, size)
				for j := range batch {
					batch[j] = event{id: uuid.New(), kind: "e"}
				}
				if _, _, err := w.append(fmt.Sprintf("w-%d", writer), expectation(i*size-1), batch...); err != nil {
					failure = err
				}
			}
			failures <- failure
		}()
	}
	for range writers {
		require.NoError(t, <-failures)
	}
	all := w.read(allRead(fromStart, false, everything))
	require.Len(t, all, writers*appends*size)
	for i := 0; i < len(all); i += size {
		for j := range size {
			require.Equal(t, all[i].stream, all[i+j].stream)
			require.Equal(t, all[i].revision+uint64(j), all[i+j].revision)
		}
	}
}

// TestSection52Filters reads $all through filters.
func TestSection52Filters(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.setMetadata("order-1", `{"$maxCount":100}`)
	w.mustAppend("order-1", noStream, event{id: uuid.New(), kind: "placed"}, event{id: uuid.New(), kind: "paid"})
	w.mustAppend("invoice-1", noStream, event{id: uuid.New(), kind: "paid.late"})
	w.mustAppend("orders", noStream, event{id: uuid.New(), kind: "Paid"})
	table := []struct {
		name   string
		filter filterOn
		want   []string
	}{
		{"no system events", filterOn{byType: true, regex: `^[^\$].*`}, []string{"placed", "paid", "paid.late", "Paid"}},
		{"type prefix", filterOn{byType: true, prefixes: []string{"paid"}}, []string{"paid", "paid.late"}},
		{"type prefixes", filterOn{byType: true, prefixes: []string{"Paid", "$meta"}}, []string{"$metadata", "Paid"}},
		{"type regex is not anchored", filterOn{byType: true, regex: `ai`}, []string{"paid", "paid.late", "Paid"}},
		{"stream prefix", filterOn{prefixes: []string{"order-"}}, []string{"placed", "paid"}},
		{"stream prefix of the metadata stream", filterOn{prefixes: []string{"$$order"}}, []string{"$metadata"}},
		{"stream regex", filterOn{regex: `^(order|invoice)-\d+$`}, []string{"placed", "paid", "paid.late"}},
		{"nothing matches", filterOn{prefixes: []string{"zzz"}}, []string{}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, kinds(w.read(filtered(allRead(fromStart, false, everything), row.filter))))
			backwards := kinds(w.read(filtered(allRead(fromEnd, true, everything), row.filter)))
			for i, kind := range row.want {
				require.Equal(t, kind, backwards[len(backwards)-1-i])
			}
			if len(row.want) > 1 {
				require.Equal(t, row.want[:1], kinds(w.read(filtered(allRead(fromStart, false, 1), row.filter))))
			}
		})
	}
}

// TestSection52RefusedFilters refuses what would silently differ from EventStoreDB.
func TestSection52RefusedFilters(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	table := []struct {
		name   string
		filter filterOn
		code   codes.Code
	}{
		{"look-ahead", filterOn{byType: true, regex: `^(?!\$)`, multiplier: 1}, codes.InvalidArgument},
		{"look-behind", filterOn{regex: `(?<=a)b`, multiplier: 1}, codes.InvalidArgument},
		{"back-reference", filterOn{regex: `(a)\1`, multiplier: 1}, codes.InvalidArgument},
		{"broken regex", filterOn{regex: `(`, multiplier: 1}, codes.InvalidArgument},
		{"neither regex nor prefix", filterOn{multiplier: 1}, codes.InvalidArgument},
		{"multiplier zero", filterOn{prefixes: []string{"a"}}, codes.Unknown},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			_, trailers, err := w.messages(filtered(subscribing(allRead(fromStart, false, 1)), row.filter))
			requireFault(t, err, trailers, row.code, nil)
		})
	}
	require.Empty(t, w.read(filtered(allRead(fromStart, false, 1), filterOn{prefixes: []string{"a"}})), "a plain read needs no multiplier")
}

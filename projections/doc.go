// Package projections fills the read models of package readmodels from the
// event log.
//
// A projection turns the events of its categories into SQL, and nothing else:
// it reads no table into the program, no clock and no network, so that the same
// log always makes the same tables. Whatever it queues for a batch of events is
// one Postgres transaction, whose last statement moves the checkpoint from
// where the batch began to where it ended. A batch is therefore applied
// completely and once, or not at all.
//
// Each build of a projection has a schema of its own. One node at a time leads
// a build: it holds a lease, and an epoch that the checkpoint statement
// compares. A node that lost its lease unawares changes nothing any more.
// Runner does this for every projection of this program, on as many nodes as
// run it; Rebuild makes a new build beside the live one and switches to it when
// it has caught up.
//
// An event nobody registered, or SQL that fails, stops the build at that place:
// it is tried again with growing pauses, and says so in the log, the metrics
// and sparkops.projections until it works. No event is ever skipped.
package projections

// Package processes drives runs on without anybody asking: it turns events
// into commands, and the passing of time into decisions.
//
// A process is a function from an event to commands. It keeps no state: what
// it drives decides from its own stream whether a command is still due, so that
// an event delivered twice, or to two nodes at once, does no more than one
// delivered once. The id of each command follows from the process and the
// event. A process that runs for the first time starts at the end of the log.
//
// What a command comes to decides about the event: a store or read model that
// is down is waited for, however long that takes; a command that is no longer
// due (Conflict, NotFound) is counted and done with; anything else is parked in
// the stream "parked-<process>", with a metric, and later events go on.
//
// Two nodes may run the service. One of them leads, by a lock in Postgres, and
// does all the work; the other takes over when the first one's connection ends.
package processes

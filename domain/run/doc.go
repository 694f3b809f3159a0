// Package run is the heart of the product: one workflow carried out once.
//
// A run's stream alone is the truth about it. Its state (Run) is a fold of the
// stream, and every command decides in one go everything that follows from a
// fact: which branch a decision takes, which steps become ready or are
// skipped, which waits begin, and whether the run is over. Nothing else moves
// a run forward, so nothing can be forgotten.
//
// What holds for every run, and is tested by simulation: it has exactly one
// terminal event; a step's result is recorded once; a command under a token
// that is not the newest of its step changes nothing; a run that is not over
// has a ready step, a lease, a wait or a pause, and a time at which Advance
// has something to decide.
package run

// Package domain holds what every decision of the control plane is made of:
// the Event interface and its Registry, error kinds, the Actor and what it may
// do, and the value types shared by all aggregates.
//
// The package and everything below it is pure: standard library only, no I/O,
// no clock, no randomness, no logging. The time and new identifiers are passed
// in as arguments, so that the same command on the same state always decides
// the same events.
//
// Each sub-package is one stream category. It declares its events
// (events.go), its specification types (spec.go), its state with Evolve and
// its commands with Decide. The zero value of a state is the empty stream.
package domain

// Package commands carries out what callers ask for: Execute runs one command
// against one stream, and the use-cases on Handler are those commands that
// need I/O, secrets or several streams.
//
// Facts of one request travel in the context: who asks (WithActor), the id
// that makes repeating safe (WithCommandID), what caused it (WithCausation)
// and the revision the caller has seen (WithExpected).
//
// A use-case over several streams writes its commit point last: whatever
// happens before it can be repeated and changes nothing the second time, so a
// crash in the middle is healed by asking again. Uniqueness is always a
// reservation stream, never a look into a read model.
package commands

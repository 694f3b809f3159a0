// Package eventstore appends to and reads from an event log that speaks the
// protocol of EventStoreDB 21.10 and later: a real cluster or the embedded
// node, through the official client.
//
// Guarantees of Store:
//
//   - Every append names the revision it expects. Event ids follow from the
//     command id, so an append repeated after a lost answer is stored once.
//   - No call outlives its deadline, also while the server is gone. A Store
//     recovers by itself when the server comes back, whatever state the client
//     library got itself into: it owns the library's clients and replaces them.
//   - A subscription sees each event of its categories once, in the order of
//     the log, across reconnects. Events a newer program wrote, whose type
//     nobody registered, end it with an error: skipping would lose a fact.
//   - Events are decoded once, through the domain.Registry.
//   - Errors are *ConflictError, a *domain.Error whose kind says what to do, or
//     internal. Errors of the client library never leave this package.
//
// Streams and event types whose name starts with "$" belong to the server and
// are never delivered from $all. The category Parked holds copies of events
// that could not be handled; it is delivered only to those who ask for it.
package eventstore

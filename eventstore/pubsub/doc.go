// Package pubsub connects the event log to Watermill: a Subscriber for
// processes, and a Publisher for the events a process could not handle.
//
// Guarantees of a subscription:
//
//   - The events of one stream are delivered in order, the next one only when
//     the one before was acked. Different streams are spread over lanes that
//     work side by side.
//   - At least once: an event is behind the checkpoint only when it and all
//     events before it were acked. After a crash some are delivered again.
//   - A nacked event is delivered again after a delay that grows, for as long
//     as it takes; the events behind it in its lane wait.
//   - A process that was never seen before starts at the end of the log. That
//     position is kept before anything is delivered, so that nothing written
//     from then on is lost.
package pubsub

// Package readmodels answers questions from the Postgres read models that
// package projections fills: view types, which are also the API's answers, and
// one method of Views per query.
//
// Every projection writes into a schema of its own per build. Views connect
// with a search_path of the live builds of those versions this program knows
// (Versions), and follow within moments when a rebuilt one takes over: queries
// name tables without a schema. A read model that is being built for the first
// time is answered with domain.Unavailable (READ_MODEL_BUILDING), never with a
// part of the truth.
//
// Read models trail the log. WaitFor returns once the given projections have
// applied a position, so that who writes can read what it wrote.
//
// Errors: no row, or one the caller may not see, is domain.NotFound; an
// unreachable Postgres is domain.Unavailable; anything else is internal.
//
// Besides views the schema sparkops holds what the program keeps in Postgres
// for itself (Migrate): checkpoints, idempotency records, task claims. All of
// it can be lost and is made again, at the price of a rebuild.
package readmodels

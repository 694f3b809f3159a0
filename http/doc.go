// Package http serves the REST API under /api/v1, the live stream of a run,
// health, readiness, metrics, the OpenAPI description and a page that shows it.
//
// A request passes, from the outside in: the record of the request (id, log
// line, metrics, panics), security headers, CORS, the credential and the rate
// limit (these as echo middleware, so that they hold for unknown addresses
// too); then, per operation: permission, the layer that brings bodies and
// query parameters into one key style, the idempotency of writes, and huma,
// which checks the shape of the input against the Go types it is read into.
// The handler calls one use-case of package commands or one query of package
// readmodels; rules and resource-level permission live there.
//
// Every error answer, whoever it comes from, is one problem document: see
// Problem. Every operation declares the permission it needs; New fails where
// one does not.
package http

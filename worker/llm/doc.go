// Package llm talks to language models. It has one interface, Provider, with
// two implementations: OpenAI, a thin client for the chat completions of any
// compatible service, and Simulated, which answers without a network and
// always in the same way. Server speaks the wire format from the other side,
// so that the client can be tried without an account. Price computes what a
// call cost.
//
// A provider never repeats a call by itself: each attempt is recorded and paid
// for by the caller.
package llm

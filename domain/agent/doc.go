// Package agent is the stream category of agents: what a model is asked with,
// in immutable versions.
package agent

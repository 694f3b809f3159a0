// Package workflow is the stream category of workflows: what is done, as a
// graph in immutable versions, and everything about it that is not versioned.
package workflow

// Package tool is the stream category of tools: what agents and workflows may
// call, in immutable versions. Credentials are sealed beside the definition.
package tool

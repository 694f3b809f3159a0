// Package apikey is the stream category of API keys: credentials of programs
// that act for a user.
package apikey

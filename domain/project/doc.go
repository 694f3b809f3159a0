// Package project is the stream category of projects and their members: a
// project is what agents, tools, workflows and runs belong to, and membership
// is what lets a user see it.
package project

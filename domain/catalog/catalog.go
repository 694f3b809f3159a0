// Package catalog builds the Registry of every event of the control plane. It
// also keeps one golden JSON sample per stored name (testdata/events), never
// edited or deleted, that proves old logs stay readable.
package catalog

import (
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/agent"
	"github.com/sparkops/control-plane/domain/apikey"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/domain/session"
	"github.com/sparkops/control-plane/domain/tool"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/domain/workflow"
)

// Registry returns a new registry of all events.
func Registry() *domain.Registry {
	r := domain.NewRegistry()
	agent.Register(r)
	apikey.Register(r)
	claim.Register(r)
	project.Register(r)
	run.Register(r)
	session.Register(r)
	tool.Register(r)
	user.Register(r)
	workflow.Register(r)
	return r
}

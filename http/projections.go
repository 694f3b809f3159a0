package http

import (
	"context"
	"net/http"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/projections"
	"github.com/sparkops/control-plane/readmodels"
)

// projectionRoutes adds what operators of the read models need.
func (s *Server) projectionRoutes() {
	register(s, operation{
		id: "list-projections", method: http.MethodGet, path: "/projections", tag: "operations",
		summary: "The builds of every projection and how far behind the log they are", permission: "projections:read", system: true,
	}, s.listProjections)
	register(s, operation{
		id: "rebuild-projection", method: http.MethodPost, path: "/projections/{name}/rebuild", tag: "operations", status: http.StatusAccepted,
		summary: "Build a projection anew beside the live one and switch when it has caught up", permission: "projections:write", system: true,
	}, s.rebuildProjection)
}

// ProjectionBuild is one set of tables of a projection.
type ProjectionBuild struct {
	readmodels.Build
	Lag int64 `json:"lag" doc:"How far behind the end of the log it was when it was last moved or asked, in positions (bytes of the log)."`
}

// ProjectionList is every build, and the end of the log.
type ProjectionList struct {
	Head  uint64            `json:"head" doc:"Position of the last event of the log."`
	Items []ProjectionBuild `json:"items"`
	Total int               `json:"total"`
}

func (s *Server) listProjections(ctx context.Context, _ *struct{}) (*Plain[ProjectionList], error) {
	head, err := s.handler.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	builds, err := s.views.Builds(ctx)
	if err != nil {
		return nil, err
	}
	list := ProjectionList{Head: head, Items: make([]ProjectionBuild, len(builds)), Total: len(builds)}
	for i, b := range builds {
		list.Items[i] = ProjectionBuild{Build: b, Lag: max(int64(head)-b.Position, 0)}
	}
	return &Plain[ProjectionList]{list}, nil
}

// ProjectionName names a projection.
type ProjectionName struct {
	Name string `path:"name" maxLength:"64"`
}

// RebuildStarted says that a rebuild goes on by itself.
type RebuildStarted struct {
	Name    string `json:"name"`
	Message string `json:"message"`
	Head    uint64 `json:"head" doc:"Where the log ended when the rebuild began."`
}

func (s *Server) rebuildProjection(ctx context.Context, in *ProjectionName) (*Plain[RebuildStarted], error) {
	if s.config.Projections == nil {
		return nil, domain.Fail(domain.Unavailable, "PROJECTOR_ELSEWHERE", "This node moves no projections; ask one with the role projector.")
	}
	begun, failed := make(chan uint64, 1), make(chan error, 1)
	background, done := s.untilStopped(ctx)
	s.background.Go(func() {
		defer done()
		first := true
		err := s.config.Projections.Rebuild(background, in.Name, func(p projections.Progress) {
			if first {
				first = false
				begun <- p.Head
			}
		})
		failed <- err
		if err != nil && !first && background.Err() == nil {
			s.log.ErrorContext(background, "a rebuild failed", "projection", in.Name, "error", err)
		}
	})
	started := &Plain[RebuildStarted]{RebuildStarted{Name: in.Name, Message: "The rebuild has begun; GET /projections shows how far it is."}}
	select {
	case started.Body.Head = <-begun:
		return started, nil
	case err := <-failed:
		select {
		case started.Body.Head = <-begun: // it was that fast
			return started, err
		default:
			return nil, err
		}
	case <-ctx.Done():
		return started, nil
	}
}

// untilStopped returns a context that outlives its request and ends when the
// server stops or done is called.
func (s *Server) untilStopped(ctx context.Context) (background context.Context, done func()) {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.background.Go(func() {
		select {
		case <-s.stopping:
			cancel()
		case <-background.Done():
		}
	})
	return background, cancel
}

package http

import (
	"context"
	"net/http"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/projections"
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

func (s *Server) listProjections(ctx context.Context, _ *struct{}) (*Plain[Items[projections.Status]], error) {
	if s.config.Projections == nil {
		return nil, errElsewhere()
	}
	found, err := s.config.Projections.Lag(ctx)
	if err != nil {
		return nil, err
	}
	return itemsOf(found), nil
}

func errElsewhere() error {
	return domain.Fail(domain.Unavailable, "PROJECTOR_ELSEWHERE", "This node knows nothing of projections; ask another one.")
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
		return nil, errElsewhere()
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

package http

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

// userRoutes adds the administration of accounts.
func (s *Server) userRoutes() {
	register(s, operation{
		id: "list-users", method: http.MethodGet, path: "/users", tag: "users", reads: []string{"accounts"},
		summary: "List accounts", permission: "users:read", system: true,
	}, s.listUsers)
	register(s, operation{
		id: "get-user", method: http.MethodGet, path: "/users/{id}", tag: "users", reads: []string{"accounts"},
		summary: "One account", permission: "users:read", system: true,
	}, s.getUser)
	register(s, operation{
		id: "create-user", method: http.MethodPost, path: "/users", tag: "users", status: http.StatusCreated,
		summary: "Make an account for somebody, with any role", permission: "users:write", system: true, once: true,
	}, s.createUser)
	register(s, operation{
		id: "update-user", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/users/{id}", tag: "users",
		summary: "Change an account's name, role or whether it is active", permission: "users:write", system: true,
	}, s.updateUser)
	register(s, operation{
		id: "reset-password", method: http.MethodPost, path: "/users/{id}/password", tag: "users",
		summary: "Give an account a new password, which ends its logins", permission: "users:write", system: true, once: true,
	}, s.resetPassword)
	register(s, operation{
		id: "deactivate-user", method: http.MethodPost, path: "/users/{id}/deactivate", tag: "users",
		summary: "Lock an account out", permission: "users:write", system: true,
	}, s.deactivateUser)
	register(s, operation{
		id: "reactivate-user", method: http.MethodPost, path: "/users/{id}/reactivate", tag: "users",
		summary: "Let a locked-out account in again", permission: "users:write", system: true,
	}, s.reactivateUser)
}

// UsersInput selects accounts.
type UsersInput struct {
	Paging
	Role   string `query:"role" enum:"owner,admin,developer,viewer,auditor,operator"`
	Active string `query:"is_active" enum:"true,false"`
}

func (s *Server) listUsers(ctx context.Context, in *UsersInput) (*Plain[List[readmodels.User]], error) {
	filter := readmodels.UserFilter{Role: domain.Role(in.Role)}
	if in.Active != "" {
		active := in.Active == "true"
		filter.Active = &active
	}
	found, err := s.views.Users(ctx, filter, in.page())
	if err != nil {
		return nil, err
	}
	return listOf(found, in.Paging), nil
}

// ReadOne selects one resource to read.
type ReadOne struct {
	Reading
	ID
}

func (s *Server) getUser(ctx context.Context, in *ReadOne) (*Found[readmodels.User], error) {
	u, err := s.views.UserByID(ctx, in.ID.ID)
	return &Found[readmodels.User]{etag(u.Revision), u}, err
}

func (s *Server) createUser(ctx context.Context, in *RegisterInput) (*Saved[readmodels.User], error) {
	made, receipt, err := s.handler.CreateUser(ctx, user.Registration(in.Body))
	if err != nil {
		return nil, err
	}
	written, lag := s.settled(ctx, receipt, "accounts")
	written.Location = prefix + "/users/" + made.ID
	view, err := show(lag, func() (readmodels.User, error) { return s.views.UserByID(ctx, made.ID) }, fixed(made))
	return &Saved[readmodels.User]{written, view}, err
}

// UpdateUserInput changes an account.
type UpdateUserInput struct {
	Writing
	ID
	Body UserPatch
}

// UserPatch is a partial account: what is absent stays as it is.
type UserPatch struct {
	Name     *string      `json:"name,omitempty"`
	Role     *domain.Role `json:"role,omitempty"`
	IsActive *bool        `json:"is_active,omitempty"`
}

func (s *Server) updateUser(ctx context.Context, in *UpdateUserInput) (*Saved[readmodels.User], error) {
	var changes []func(context.Context) (commands.Receipt, error)
	if in.Body.Name != nil {
		changes = append(changes, func(ctx context.Context) (commands.Receipt, error) {
			return s.handler.Rename(ctx, in.ID.ID, strings.TrimSpace(*in.Body.Name))
		})
	}
	if in.Body.Role != nil {
		changes = append(changes, func(ctx context.Context) (commands.Receipt, error) {
			return s.handler.ChangeRole(ctx, in.ID.ID, *in.Body.Role)
		})
	}
	if in.Body.IsActive != nil {
		change := s.handler.Deactivate
		if *in.Body.IsActive {
			change = s.handler.Reactivate
		}
		changes = append(changes, func(ctx context.Context) (commands.Receipt, error) { return change(ctx, in.ID.ID) })
	}
	return s.changeUser(ctx, in.ID.ID, changes...)
}

// changeUser carries out changes one after the other, each as a command of its
// own: If-Match is a matter of the first.
func (s *Server) changeUser(ctx context.Context, id string, changes ...func(context.Context) (commands.Receipt, error)) (*Saved[readmodels.User], error) {
	before, err := s.views.UserByID(ctx, id)
	if err != nil {
		return nil, err
	}
	if commands.CommandIDFrom(ctx) == "" {
		ctx = commands.WithCommandID(ctx, commands.NewID())
	}
	written, lag := Written{ETag: etag(before.Revision)}, false
	for i, change := range changes {
		step := ctx
		if i > 0 {
			step = commands.SubCommand(ctx, strconv.Itoa(i))
		}
		receipt, err := change(step)
		if err != nil {
			return nil, err
		}
		written, lag = s.settled(ctx, receipt, "accounts")
	}
	view, err := show(lag, func() (readmodels.User, error) { return s.views.UserByID(ctx, id) }, fixed(before))
	return &Saved[readmodels.User]{written, view}, err
}

// ChangeOne names the one resource a call changes.
type ChangeOne struct {
	Writing
	ID
}

func (s *Server) deactivateUser(ctx context.Context, in *ChangeOne) (*Saved[readmodels.User], error) {
	return s.changeUser(ctx, in.ID.ID, func(ctx context.Context) (commands.Receipt, error) { return s.handler.Deactivate(ctx, in.ID.ID) })
}

func (s *Server) reactivateUser(ctx context.Context, in *ChangeOne) (*Saved[readmodels.User], error) {
	return s.changeUser(ctx, in.ID.ID, func(ctx context.Context) (commands.Receipt, error) { return s.handler.Reactivate(ctx, in.ID.ID) })
}

// ResetPasswordInput gives an account a new password.
type ResetPasswordInput struct {
	ID
	Body ResetPassword
}

// ResetPassword is the new password of somebody else.
type ResetPassword struct {
	Password string `json:"password" doc:"8 to 256 characters."`
}

func (s *Server) resetPassword(ctx context.Context, in *ResetPasswordInput) (*Saved[readmodels.User], error) {
	return s.changeUser(ctx, in.ID.ID, func(ctx context.Context) (commands.Receipt, error) {
		return s.handler.ResetPassword(ctx, in.ID.ID, in.Body.Password)
	})
}

package http

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

// authRoutes adds accounts and logins. Keys in and out are in snake_case.
func (s *Server) authRoutes() {
	register(s, operation{
		id: "register", method: http.MethodPost, path: "/auth/register", tag: "auth", status: http.StatusCreated,
		summary: "Make an account", permission: "auth:public", once: true,
		description: "The first account of an empty system becomes its owner. Later ones ask for viewer or developer.",
	}, s.register)
	register(s, operation{
		id: "login", method: http.MethodPost, path: "/auth/login", tag: "auth",
		summary: "Log in", permission: "auth:public", once: true,
	}, s.login)
	register(s, operation{
		id: "refresh", method: http.MethodPost, path: "/auth/refresh", tag: "auth",
		summary: "Take a refresh token for a new access token", permission: "auth:public", once: true,
		description: "A refresh token may be sent again as long as no successor of it was used. After that it ends the login.",
	}, s.refresh)
	register(s, operation{
		id: "logout", method: http.MethodPost, path: "/auth/logout", tag: "auth",
		summary: "End a login", permission: "auth:public", once: true,
		description: "Ends the login of the given refresh token, or else the one of the access token.",
	}, s.logout)
	register(s, operation{
		id: "get-me", method: http.MethodGet, path: "/auth/me", tag: "auth", reads: []string{"accounts"},
		summary: "Who am I", permission: "auth:self",
	}, s.me)
	register(s, operation{
		id: "update-me", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/auth/me", tag: "auth",
		summary: "Change the own display name", permission: "auth:self",
	}, s.updateMe)
	register(s, operation{
		id: "change-password", method: http.MethodPost, path: "/auth/password", tag: "auth",
		summary: "Change the own password, which ends all logins", permission: "auth:self", once: true,
	}, s.changePassword)
}

// RegisterInput asks for an account.
type RegisterInput struct {
	Body Registration
}

// Registration is what somebody who wants an account fills in.
type Registration struct {
	Email    string      `json:"email" doc:"Compared without case."`
	Name     string      `json:"name"`
	Password string      `json:"password" doc:"8 to 256 characters."`
	Role     domain.Role `json:"role,omitempty" doc:"viewer where absent."`
}

func (s *Server) register(ctx context.Context, in *RegisterInput) (*Saved[readmodels.User], error) {
	if a := s.registrations.take(requestOf(ctx).address); !a.ok {
		return nil, a.limited("Too many registrations")
	}
	made, receipt, err := s.handler.Register(ctx, user.Registration(in.Body))
	if err != nil {
		return nil, err
	}
	written, lag := s.settled(ctx, receipt, "accounts", "projects")
	view, err := show(lag, func() (readmodels.User, error) { return s.views.UserByID(ctx, made.ID) }, fixed(made))
	return &Saved[readmodels.User]{written, view}, err
}

// LoginInput begins a login.
type LoginInput struct {
	Body Login
}

// Login is what somebody logs in with.
type Login struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

func (s *Server) login(ctx context.Context, in *LoginInput) (*Plain[commands.Tokens], error) {
	caller := requestOf(ctx).address + " " + strings.ToLower(strings.TrimSpace(in.Body.Email))
	if a := s.failures.peek(caller); !a.ok {
		return nil, a.limited("Too many failed logins")
	}
	tokens, _, err := s.handler.Login(ctx, in.Body.Email, in.Body.Password)
	if domain.KindOf(err) == domain.Unauthorized {
		s.failures.take(caller)
	}
	return &Plain[commands.Tokens]{tokens}, err
}

// RefreshInput renews a login.
type RefreshInput struct {
	Body RefreshToken
}

// RefreshToken is the token of a login or of an earlier refresh.
type RefreshToken struct {
	RefreshToken string `json:"refresh_token"`
}

func (s *Server) refresh(ctx context.Context, in *RefreshInput) (*Plain[commands.Tokens], error) {
	tokens, _, err := s.handler.Refresh(ctx, in.Body.RefreshToken)
	return &Plain[commands.Tokens]{tokens}, err
}

// LogoutInput ends a login.
type LogoutInput struct {
	Body *OptionalRefreshToken
}

// OptionalRefreshToken names the login to end.
type OptionalRefreshToken struct {
	RefreshToken string `json:"refresh_token,omitempty"`
}

func (s *Server) logout(ctx context.Context, in *LogoutInput) (*Plain[Said], error) {
	r, token := requestOf(ctx), ""
	if in.Body != nil {
		token = in.Body.RefreshToken
	}
	if token == "" && r.actor.Kind == domain.ActorNobody {
		return nil, errors.Join(r.denied, domain.Fail(domain.Unauthorized, "UNAUTHENTICATED", "Send the refresh token or the access token of the login to end."))
	}
	receipt, err := s.handler.Logout(ctx, token, r.session)
	if err != nil {
		return nil, err
	}
	s.settled(ctx, receipt, "accounts")
	return &Plain[Said]{Said{"You are signed out."}}, nil
}

func (s *Server) me(ctx context.Context, _ *Reading) (*Plain[readmodels.User], error) {
	me, err := s.handler.Me(ctx)
	return &Plain[readmodels.User]{me}, err
}

// UpdateMeInput changes the own account.
type UpdateMeInput struct {
	Writing
	Body DisplayName
}

// DisplayName is the name others see.
type DisplayName struct {
	Name string `json:"name"`
}

func (s *Server) updateMe(ctx context.Context, in *UpdateMeInput) (*Saved[readmodels.User], error) {
	receipt, err := s.handler.Rename(ctx, actorOf(ctx).ID, strings.TrimSpace(in.Body.Name))
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "accounts")
	me, err := s.handler.Me(ctx)
	return &Saved[readmodels.User]{written, me}, err
}

// PasswordInput changes the own password.
type PasswordInput struct {
	Body NewPassword
}

// NewPassword replaces the present one.
type NewPassword struct {
	CurrentPassword string `json:"current_password"`
	NewPassword     string `json:"new_password" doc:"8 to 256 characters."`
}

func (s *Server) changePassword(ctx context.Context, in *PasswordInput) (*Plain[Said], error) {
	caller := requestOf(ctx).address + " " + actorOf(ctx).ID
	if a := s.failures.peek(caller); !a.ok {
		return nil, a.limited("Too many wrong passwords")
	}
	receipt, err := s.handler.ChangePassword(ctx, in.Body.CurrentPassword, in.Body.NewPassword)
	if err != nil {
		if domain.KindOf(err) == domain.Invalid {
			s.failures.take(caller)
		}
		return nil, err
	}
	s.settled(ctx, receipt, "accounts")
	return &Plain[Said]{Said{"The password is changed; sign in again."}}, nil
}

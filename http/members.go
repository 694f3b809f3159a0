package http

import (
	"context"
	"net/http"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

func (s *Server) memberRoutes() {
	register(s, operation{
		id: "list-members", method: http.MethodGet, path: "/projects/{id}/members", tag: "projects", reads: []string{"projects", "accounts"},
		summary: "Who sees the project, and with which role", permission: "projects:read",
	}, s.listMembers)
	register(s, operation{
		id: "add-member", method: http.MethodPost, path: "/projects/{id}/members", tag: "projects", status: http.StatusCreated,
		summary: "Let a user into the project", permission: "projects:admin",
	}, s.addMember)
	register(s, operation{
		id: "change-member", method: http.MethodPut, also: []string{http.MethodPatch}, path: "/projects/{id}/members/{userId}", tag: "projects",
		summary: "Give a member another role", permission: "projects:admin",
	}, s.changeMember)
	register(s, operation{
		id: "remove-member", method: http.MethodDelete, path: "/projects/{id}/members/{userId}", tag: "projects",
		summary: "Take a user out of the project; members may leave by themselves", permission: "projects:admin",
	}, s.removeMember)
}

func (s *Server) listMembers(ctx context.Context, in *ReadOne) (*Plain[Items[readmodels.Member]], error) {
	found, err := s.views.Members(ctx, visibleTo(ctx), in.ID.ID)
	if err != nil {
		return nil, err
	}
	return itemsOf(found), mayRead(ctx, "projects:read", in.ID.ID)
}

// AddMemberInput lets a user in.
type AddMemberInput struct {
	Writing
	ID
	Body NewMember
}

// NewMember names a registered user by id or by e-mail address.
type NewMember struct {
	commands.Invitee
	Role domain.Role `json:"role" doc:"owner, admin, developer or viewer."`
}

func (s *Server) addMember(ctx context.Context, in *AddMemberInput) (*Saved[readmodels.Member], error) {
	userID, receipt, err := s.handler.AddMember(ctx, in.ID.ID, in.Body.Invitee, in.Body.Role)
	if err != nil {
		return nil, err
	}
	saved, err := s.savedMember(ctx, in.ID.ID, userID, in.Body.Role, receipt)
	if err != nil {
		return nil, err
	}
	saved.Location = prefix + "/projects/" + in.ID.ID + "/members/" + userID
	return saved, nil
}

// MemberID names one member.
type MemberID struct {
	ID
	UserID string `path:"userId" doc:"Id of the user."`
}

// ChangeMemberInput gives a member another role.
type ChangeMemberInput struct {
	Writing
	MemberID
	Body MemberRole
}

// MemberRole is a role in a project.
type MemberRole struct {
	Role domain.Role `json:"role" doc:"owner, admin, developer or viewer."`
}

func (s *Server) changeMember(ctx context.Context, in *ChangeMemberInput) (*Saved[readmodels.Member], error) {
	receipt, err := s.handler.ChangeMember(ctx, in.ID.ID, in.UserID, in.Body.Role)
	if err != nil {
		return nil, err
	}
	return s.savedMember(ctx, in.ID.ID, in.UserID, in.Body.Role, receipt)
}

func (s *Server) savedMember(ctx context.Context, projectID, userID string, role domain.Role, receipt commands.Receipt) (*Saved[readmodels.Member], error) {
	written, lag := s.settled(ctx, receipt, "projects")
	read := func() (readmodels.Member, error) {
		return s.views.Member(ctx, readmodels.Visible{All: true}, projectID, userID)
	}
	view, err := show(lag, read, fixed(readmodels.Member{ProjectID: projectID, UserID: userID, Role: role, AddedAt: receipt.At}))
	return &Saved[readmodels.Member]{written, view}, err
}

// RemoveMemberInput takes a member out.
type RemoveMemberInput struct {
	Writing
	MemberID
}

func (s *Server) removeMember(ctx context.Context, in *RemoveMemberInput) (*Saved[Gone], error) {
	receipt, err := s.handler.RemoveMember(ctx, in.ID.ID, in.UserID)
	if err != nil {
		return nil, err
	}
	written, _ := s.settled(ctx, receipt, "projects")
	return &Saved[Gone]{written, Gone{in.UserID, true}}, nil
}

package domain

import "slices"

// Role is what a user may do in the system or in one project.
type Role string

// The roles. Owner, admin, developer and viewer are ordered; auditor and
// operator are system roles beside that order: an auditor reads everything
// and changes nothing, an operator runs the service (projections, lag) and
// sees no project by it.
const (
	Owner     Role = "owner"
	Admin     Role = "admin"
	Developer Role = "developer"
	Viewer    Role = "viewer"
	Auditor   Role = "auditor"
	Operator  Role = "operator"
)

// Level orders the four ranked roles: viewer 1 to owner 4; any other is 0.
func (r Role) Level() int {
	switch r {
	case Viewer:
		return 1
	case Developer:
		return 2
	case Admin:
		return 3
	case Owner:
		return 4
	default:
		return 0
	}
}

// Higher returns the higher of two ranked roles.
func Higher(a, b Role) Role {
	if b.Level() > a.Level() {
		return b
	}
	return a
}

// ActorKind says what kind of caller an actor is.
type ActorKind string

// The kinds of actor.
const (
	ActorUser    ActorKind = "user"
	ActorAPIKey  ActorKind = "apiKey"
	ActorProcess ActorKind = "process" // the control plane itself; may do everything
	ActorNobody  ActorKind = ""        // not signed in
)

// Actor is who asks for a command. Projects holds its membership role by
// project id. Scopes restricts an API key; nil means unrestricted.
type Actor struct {
	Kind     ActorKind
	ID       string // user id; for a process its name, e.g. "process.timers"
	KeyID    string // API key id when Kind is ActorAPIKey
	Role     Role
	Projects map[string]Role
	Scopes   []Permission
}

// Process returns the actor of a process manager or use-case of ours.
func Process(name string) Actor { return Actor{Kind: ActorProcess, ID: name} }

// RoleIn returns the effective role in a project and whether the actor can see
// the project at all. System owners and admins see every project, auditors see
// every project as viewers, everybody else sees those of a membership; the
// effective role is the higher of system role and membership.
func (a Actor) RoleIn(project string) (Role, bool) {
	member, isMember := a.Projects[project]
	switch {
	case a.Kind == ActorProcess:
		return Owner, true
	case a.Role == Owner || a.Role == Admin:
		return Higher(a.Role, member), true
	case isMember:
		return Higher(a.Role, member), true
	case a.Role == Auditor:
		return Viewer, true
	default:
		return "", false
	}
}

// SeesAll reports whether the actor sees every project.
func (a Actor) SeesAll() bool {
	return a.Kind == ActorProcess || a.Role == Owner || a.Role == Admin || a.Role == Auditor
}

// Permission names one right, "<resource>:<verb>". It is also the scope that
// restricts an API key to it.
type Permission string

// Grant says who holds a permission: everybody of at least MinRole, and the
// listed roles beside the order. Anyone signed in holds it when Anyone is set,
// also without being signed in when Public is.
type Grant struct {
	MinRole Role
	Also    []Role
	Anyone  bool
	Public  bool
}

// Need is what a command requires: a permission, in the project its stream
// belongs to (never one the caller names), or, with an empty Project, in the
// system. Self is the user whose own affair the command is: that user needs no
// role for it, a scope restriction still counts.
type Need struct {
	Permission Permission
	Project    string
	Self       string
}

// Authorize decides whether the actor meets the need. It returns nil; a
// NotFound error for a project the actor cannot see; Unauthorized for nobody;
// Forbidden for a role or scope that is too low.
func (a Actor) Authorize(n Need) error {
	grant, known := Grants[n.Permission]
	if !known {
		return Fail(Forbidden, "UNKNOWN_PERMISSION", "This action has no permission declared.")
	}
	if a.Kind == ActorProcess || grant.Public {
		return nil
	}
	if a.Kind == ActorNobody {
		return Fail(Unauthorized, "UNAUTHENTICATED", "Sign in or send an API key.")
	}
	role, visible := a.Role, true
	if n.Project != "" {
		role, visible = a.RoleIn(n.Project)
	}
	if !visible {
		return Missing()
	}
	if a.Scopes != nil && !slices.Contains(a.Scopes, n.Permission) {
		return Fail(Forbidden, "SCOPE_MISSING", "The API key lacks the scope %s.", n.Permission)
	}
	if grant.Anyone || (n.Self != "" && n.Self == a.ID) || slices.Contains(grant.Also, a.Role) {
		return nil
	}
	if grant.MinRole == "" || role.Level() < grant.MinRole.Level() {
		return Fail(Forbidden, "FORBIDDEN", "Your role does not allow this action; it needs the role %s or higher.", grant.MinRole)
	}
	return nil
}

// Grants is the whole permission table. A route or command that names a
// permission missing here fails at start-up.
var Grants = map[Permission]Grant{
	"auth:public":    {Public: true}, // register, log in, refresh
	"auth:self":      {Anyone: true}, // who am I, log out
	"users:read":     {MinRole: Admin, Also: []Role{Auditor}},
	"users:write":    {MinRole: Admin},
	"users:own":      {MinRole: Owner}, // make, change or lock out an owner
	"keys:read":      {MinRole: Admin}, // own keys: Need.Self
	"keys:write":     {MinRole: Admin},
	"projects:list":  {Anyone: true}, // lists show only what the actor sees
	"projects:read":  {MinRole: Viewer},
	"projects:write": {MinRole: Developer},
	"projects:admin": {MinRole: Admin}, // delete, members
	"projects:own":   {MinRole: Owner}, // make, change or remove an owner
	"agents:list":    {Anyone: true},
	"agents:read":    {MinRole: Viewer},
	"agents:write":   {MinRole: Developer},
	"agents:delete":  {MinRole: Admin},
	"tools:list":     {Anyone: true},
	"tools:read":     {MinRole: Viewer},
	"tools:write":    {MinRole: Developer},
	"tools:delete":   {MinRole: Admin},

	"workflows:list":   {Anyone: true},
	"workflows:read":   {MinRole: Viewer},
	"workflows:write":  {MinRole: Developer},
	"workflows:delete": {MinRole: Admin},

	"runs:list":  {Anyone: true},
	"runs:read":  {MinRole: Viewer},
	"runs:write": {MinRole: Developer}, // create, cancel, retry, resume, hide

	"tasks:work": {MinRole: Developer}, // lease and complete tasks

	"projections:read":  {MinRole: Admin, Also: []Role{Operator}},
	"projections:write": {MinRole: Owner, Also: []Role{Operator}},
	"clock:write":       {MinRole: Owner, Also: []Role{Operator}}, // only with --unsafe-test-clock
}

package http

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

// need says who may call an operation: everybody, everybody signed in, or who
// has at least a role, in the project of the thing or in the system.
type need struct {
	where string // public, signed in, project, system
	role  domain.Role
	also  domain.Role // beside the order
	body  any
}

var (
	public   = need{where: "public"}
	signedIn = need{where: "signed in"}
)

// access is written down by hand: it must say what the operations do, and
// cover each of them.
func access(m things) map[string]need {
	reads := func(r domain.Role) need { return need{where: "project", role: r} }
	writes := func(r domain.Role, body any) need { return need{where: "project", role: r, body: body} }
	table := map[string]need{
		"POST /auth/register": public, "POST /auth/login": public, "POST /auth/refresh": public, "POST /auth/logout": public,
		"GET /auth/me": signedIn, "PUT /auth/me": {where: "signed in", body: object{"name": "x"}},
		"POST /auth/password": {where: "signed in", body: object{"current_password": "wrong", "new_password": password}},
		"POST /auth/api-key":  signedIn, "DELETE /auth/api-key": {where: "signed in", role: "finds none"},
		"GET /api-keys": signedIn, "POST /api-keys": signedIn, "DELETE /api-keys/{id}": {where: "key"},
		"GET /users": {where: "system", role: domain.Admin, also: domain.Auditor}, "GET /users/{id}": {where: "system", role: domain.Admin, also: domain.Auditor},
		"POST /users":                 {where: "system", role: domain.Admin, body: object{}},
		"PUT /users/{id}":             {where: "system", role: domain.Admin, body: object{}},
		"POST /users/{id}/password":   {where: "system", role: domain.Admin, body: object{"password": "short"}},
		"POST /users/{id}/deactivate": {where: "system", role: domain.Admin}, "POST /users/{id}/reactivate": {where: "system", role: domain.Admin},

		"GET /projects": signedIn, "POST /projects": {where: "system", role: domain.Developer, body: object{"name": "x"}},
		"GET /projects/{id}": reads(domain.Viewer), "PUT /projects/{id}": writes(domain.Developer, object{"name": "x"}), "DELETE /projects/{id}": reads(domain.Admin),
		"GET /projects/{id}/members": reads(domain.Viewer), "POST /projects/{id}/members": writes(domain.Admin, object{"user_id": m.member, "role": "viewer"}),
		"PUT /projects/{id}/members/{userId}": writes(domain.Admin, object{"role": "viewer"}), "DELETE /projects/{id}/members/{userId}": reads(domain.Admin),

		"GET /runs": signedIn, "POST /runs": writes(domain.Developer, object{"workflow_id": m.workflow, "agent_id": m.agent}),
		"GET /runs/{id}": reads(domain.Viewer), "GET /runs/{id}/steps": reads(domain.Viewer), "GET /runs/{id}/events": reads(domain.Viewer),
		"GET /runs/{id}/stream": reads(domain.Viewer), "GET /runs/{id}/why": reads(domain.Viewer),
		"PATCH /runs/{id}/cancel": reads(domain.Developer), "PATCH /runs/{id}/pause": reads(domain.Developer), "POST /runs/{id}/resume": reads(domain.Developer),
		"POST /runs/{id}/retry": reads(domain.Developer), "DELETE /runs/{id}": reads(domain.Developer),

		"GET /projections":                 {where: "system", role: domain.Admin, also: domain.Operator},
		"POST /projections/{name}/rebuild": {where: "system", role: domain.Owner, also: domain.Operator},
	}
	for _, kind := range []string{"agents", "tools", "workflows"} {
		table["GET /"+kind] = signedIn
		table["POST /"+kind] = writes(domain.Developer, object{"name": "x", "kind": "api", "projectId": m.project})
		table["GET /"+kind+"/{id}"] = reads(domain.Viewer)
		table["PUT /"+kind+"/{id}"] = writes(domain.Developer, object{"name": "x"})
		table["DELETE /"+kind+"/{id}"] = reads(domain.Admin)
	}
	table["GET /agents/{id}/health"] = reads(domain.Viewer)
	table["POST /tools/{id}/test"] = writes(domain.Developer, object{})
	table["GET /workflows/{id}/analytics"] = reads(domain.Viewer)
	table["GET /workflows/{id}/versions"] = reads(domain.Viewer)
	table["POST /workflows/{id}/versions"] = reads(domain.Developer)
	table["GET /workflows/{id}/versions/{version}"] = reads(domain.Viewer)
	table["PUT /workflows/{id}/versions/{version}"] = writes(domain.Developer, object{"status": "released"})
	// The twins.
	for _, twin := range [][2]string{{"PUT", "PATCH"}, {"PATCH", "POST"}, {"POST", "PATCH"}} {
		for key, n := range maps.Clone(table) {
			method, path, _ := strings.Cut(key, " ")
			last := path[strings.LastIndexByte(path, '/')+1:]
			same := method == "PUT" || last == "cancel" || last == "pause" || last == "resume"
			if _, there := table[twin[1]+" "+path]; method == twin[0] && same && !there {
				table[twin[1]+" "+path] = n
			}
		}
	}
	return table
}

func TestEveryOperationIsInTheMatrix(t *testing.T) {
	t.Parallel()
	server, err := newServer(Config{})
	require.NoError(t, err)
	var declared, described []string
	for _, op := range server.operations {
		if path, ok := strings.CutPrefix(op.path, prefix); ok && !strings.HasPrefix(path, "/openapi") {
			declared = append(declared, op.method+" "+path)
		}
	}
	for path, item := range server.api.OpenAPI().Paths {
		for method, there := range map[string]bool{"GET": item.Get != nil, "POST": item.Post != nil, "PUT": item.Put != nil, "PATCH": item.Patch != nil, "DELETE": item.Delete != nil} {
			if there {
				described = append(described, method+" "+strings.TrimPrefix(path, prefix))
			}
		}
	}
	slices.Sort(declared)
	slices.Sort(described)
	require.Equal(t, declared, described, "what is served is what is described")
	require.Equal(t, declared, slices.Sorted(maps.Keys(access(things{}))), "… and who may call it is written down")
}

// caller is somebody, with the role that counts in the project of the matrix;
// "" is a stranger to it.
type caller struct {
	*client
	name    string
	system  domain.Role
	project domain.Role
}

func (c caller) expects(n need) int {
	allowed, denied := 0, 403
	has := func(role domain.Role) bool { return role.Level() >= n.role.Level() }
	switch n.where {
	case "public":
		return allowed
	case "signed in":
		if c.system == "" {
			return 401
		}
		return allowed
	case "key":
		switch {
		case c.system == "":
			return 401
		case c.system == domain.Admin || c.system == domain.Owner:
			return allowed
		default:
			return 404
		}
	case "system":
		switch {
		case c.system == "":
			return 401
		case has(c.system) || n.also != "" && c.system == n.also:
			return allowed
		default:
			return denied
		}
	default:
		switch {
		case c.system == "":
			return 401
		case c.project == "":
			return 404
		case has(c.project):
			return allowed
		default:
			return denied
		}
	}
}

// Every route with every role, strangers included: who may, may; who sees the
// thing but may not is told so; to everybody else it does not exist.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	s := shared()
	maker := s.user(t, domain.Developer)
	m := maker.make(t, maker.project(t))
	leaver := s.user(t, domain.Viewer)
	m.member = leaver.userID
	foreignKey := s.user(t, domain.Developer).do(t, 201, "POST", "/api-keys", nil).object()["id"].(string)
	callers := []caller{
		{&client{url: s.url}, "nobody", "", ""},
		{s.user(t, domain.Viewer), "viewer", domain.Viewer, ""},
		{s.user(t, domain.Developer), "developer", domain.Developer, ""},
		{s.user(t, domain.Operator), "operator", domain.Operator, ""},
		{s.user(t, domain.Auditor), "auditor", domain.Auditor, domain.Viewer},
		{s.user(t, domain.Admin), "admin", domain.Admin, domain.Admin},
		{s.user(t, domain.Owner), "owner", domain.Owner, domain.Owner},
	}
	for _, role := range []domain.Role{domain.Viewer, domain.Developer, domain.Admin, domain.Owner} {
		member := s.user(t, domain.Viewer)
		maker.do(t, 201, "POST", "/projects/"+m.project+"/members", object{"user_id": member.userID, "role": role})
		callers = append(callers, caller{member, "member " + string(role), domain.Viewer, role})
	}
	maker.do(t, 201, "POST", "/projects/"+m.project+"/members", object{"user_id": m.member, "role": "viewer"})

	table := access(m)
	for _, key := range slices.Sorted(maps.Keys(table)) {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			method, template, _ := strings.Cut(key, " ")
			n := table[key]
			for _, c := range callers {
				if n.where == "public" {
					continue // logging in and out has tests of its own
				}
				expected := c.expects(n)
				mine := m
				if expected == 0 && n.where == "project" && method != "GET" {
					mine = maker.make(t, m.project) // what is allowed may change or delete it
					mine.member = m.member
					if strings.HasPrefix(template, "/projects/{id}") {
						mine.project = maker.project(t)
						maker.do(t, 201, "POST", "/projects/"+mine.project+"/members", object{"user_id": c.userID, "role": c.project})
						if strings.Contains(template, "{userId}") {
							maker.do(t, 201, "POST", "/projects/"+mine.project+"/members", object{"user_id": m.member, "role": "viewer"})
						}
					}
				}
				key := foreignKey
				if expected == 0 && n.where == "key" {
					key = maker.do(t, 201, "POST", "/api-keys", nil).object()["id"].(string)
				}
				path := mine.fill(template, key)
				if template == "/runs/{id}/stream" && expected == 0 {
					require.NotEmpty(t, (<-c.stream(t, path)).comment+"x")
					continue
				}
				if strings.Contains(template, "rebuild") && expected == 0 {
					path = "/projections/none/rebuild" // allowed, and finds nothing
				}
				body := n.body
				if o, ok := body.(object); ok && n.where == "project" {
					body = mine.fillBody(o)
				}
				a := c.try(t, method, path, body)
				who := fmt.Sprintf("%s %s by %s: %d %s", method, template, c.name, a.Status, a.Text)
				if expected != 0 {
					require.Equal(t, expected, a.Status, who)
					requireProblem(t, a, expected, map[int]string{401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND"}[expected])
				} else if !strings.HasPrefix(template, "/auth/") && !strings.Contains(path, "/none/") {
					require.NotContains(t, []int{401, 403, 404}, a.Status, who)
				}
				require.Less(t, a.Status, 504, who)
				require.NotEqual(t, 500, a.Status, who)
				if expected == 404 && strings.Contains(template, "{id}") {
					unknown := mine
					unknown.project, unknown.agent, unknown.tool, unknown.workflow, unknown.run = randomID, randomID, randomID, randomID, randomID
					b := c.try(t, method, unknown.fill(template, randomID), n.body)
					require.Equal(t, anonymous(a), anonymous(b), "a foreign id answers like an unknown one")
				}
			}
		})
	}
}

const randomID = "0190e2f0-1111-7222-8333-444455556666"

func anonymous(a reply) object {
	o := maps.Clone(a.object())
	delete(o, "instance")
	delete(o, "requestId")
	return o
}

// fill puts ids into a path.
func (m things) fill(template, key string) string {
	first := strings.SplitN(template, "/", 3)[1]
	id := map[string]string{
		"projects": m.project, "agents": m.agent, "tools": m.tool, "workflows": m.workflow, "runs": m.run, "users": m.member, "api-keys": key,
	}[first]
	return strings.NewReplacer("{id}", id, "{userId}", m.member, "{version}", "1", "{name}", "agents").Replace(template)
}

// fillBody points a body at these things.
func (m things) fillBody(o object) object {
	o = maps.Clone(o)
	for key, id := range map[string]string{"projectId": m.project, "workflow_id": m.workflow, "agent_id": m.agent} {
		if _, there := o[key]; there {
			o[key] = id
		}
	}
	return o
}

// A key with scopes can do what they name, and nothing else.
func TestAccessOfAScopedKey(t *testing.T) {
	t.Parallel()
	s := shared()
	maker := s.user(t, domain.Developer)
	m := maker.make(t, maker.project(t))
	m.member = maker.userID
	issued := maker.do(t, 201, "POST", "/api-keys", object{"name": "narrow", "scopes": []string{"agents:list", "agents:read"}}).object()
	narrow := &client{url: s.url, key: issued["apiKey"].(string)}
	allowed := map[string]bool{"GET /agents": true, "GET /agents/{id}": true, "GET /agents/{id}/health": true}
	for key, n := range access(m) {
		if n.where == "public" {
			continue
		}
		method, template, _ := strings.Cut(key, " ")
		a := narrow.try(t, method, m.fill(template, randomID), n.body)
		if allowed[key] {
			require.Equal(t, 200, a.Status, "%s: %s", key, a.Text)
			continue
		}
		requireProblem(t, a, 403, "SCOPE_MISSING")
	}
}

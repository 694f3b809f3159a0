package http

import (
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	m := c.make(t, c.project(t))
	body := object{"name": "once", "projectId": m.project, "autoscale_min": 2}
	first := c.with("Idempotency-Key", "k1").do(t, 201, "POST", "/agents", body)
	require.Empty(t, first.Header.Get("Idempotency-Replayed"))
	again := c.with("Idempotency-Key", "k1").do(t, 201, "POST", "/agents", body)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	require.Equal(t, first.Text, again.Text)
	for _, name := range []string{"Etag", "X-Event-Position", "Location", "Content-Type"} {
		require.Equal(t, first.Header[name], again.Header[name])
	}
	other := c.with("Idempotency-Key", "k1").do(t, 201, "POST", "/agents", object{"autoscaleMin": 2, "project_id": m.project, "name": "once"})
	require.Equal(t, first.Text, other.Text, "the same in another key style")
	requireProblem(t, c.with("Idempotency-Key", "k1").try(t, "POST", "/agents", object{"name": "twice", "projectId": m.project}), 422, "IDEMPOTENCY_KEY_REUSED")
	requireProblem(t, c.with("Idempotency-Key", "k1").try(t, "POST", "/tools", object{"name": "once", "kind": "api", "projectId": m.project}), 422, "IDEMPOTENCY_KEY_REUSED")
	require.EqualValues(t, 1, c.get(t, "/agents?search=once&project_id="+m.project)["total"])

	colleague := s.user(t, domain.Admin)
	require.NotEqual(t, first.object()["id"], colleague.with("Idempotency-Key", "k1").do(t, 201, "POST", "/agents", body).object()["id"], "keys are each caller's own")

	t.Run("what did not happen frees the key", func(t *testing.T) {
		keyed := c.with("Idempotency-Key", "k2")
		requireProblem(t, keyed.try(t, "POST", "/agents", object{"name": "", "projectId": m.project}), 422, "VALIDATION_FAILED")
		keyed.do(t, 201, "POST", "/agents", object{"name": "mended", "projectId": m.project})
	})
	t.Run("many at once are one", func(t *testing.T) {
		keyed := c.with("Idempotency-Key", "k3")
		ids := make([]any, 4)
		var senders sync.WaitGroup
		for i := range ids {
			senders.Go(func() {
				ids[i] = keyed.try(t, "POST", "/runs", object{"workflow_id": m.workflow, "agent_id": m.agent}).object()["id"]
			})
		}
		senders.Wait()
		require.Equal(t, []any{ids[0], ids[0], ids[0], ids[0]}, ids)
		require.EqualValues(t, 2, c.get(t, "/runs?agent_id="+m.agent)["total"])
	})
	t.Run("every kind of write", func(t *testing.T) {
		for i, tc := range []struct {
			method, path string
			body         any
			status       int
		}{
			{"PATCH", "/agents/" + m.agent, object{"name": "renamed"}, 200},
			{"POST", "/projects", object{"name": "again and again"}, 201},
			{"POST", "/workflows/" + m.workflow + "/versions", nil, 201},
			{"PATCH", "/runs/" + m.run + "/cancel", nil, 200},
			{"POST", "/runs/" + m.run + "/retry", nil, 201},
			{"DELETE", "/runs/" + m.run, nil, 200},
			{"DELETE", "/projects/" + m.project, nil, 200},
		} {
			keyed := c.with("Idempotency-Key", "every-"+strconv.Itoa(i))
			one, two := keyed.do(t, tc.status, tc.method, tc.path, tc.body), keyed.do(t, tc.status, tc.method, tc.path, tc.body)
			require.Equal(t, one.Text, two.Text)
			require.Equal(t, "true", two.Header.Get("Idempotency-Replayed"), tc.path)
		}
	})
	t.Run("a secret is never kept", func(t *testing.T) {
		keyed := c.with("Idempotency-Key", "secret")
		require.NotEqual(t, keyed.do(t, 201, "POST", "/api-keys", nil).object()["apiKey"], keyed.do(t, 201, "POST", "/api-keys", nil).object()["apiKey"])
	})
	for _, bad := range []string{"a b", strings.Repeat("x", 256), "ä"} {
		requireProblem(t, c.with("Idempotency-Key", bad).try(t, "POST", "/projects", object{"name": "x"}), 422, "VALIDATION_FAILED")
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	s := shared()
	c, stranger := s.user(t, domain.Developer), s.user(t, domain.Developer)
	m := c.make(t, c.project(t))
	for _, path := range []string{"/agents/" + m.agent, "/tools/" + m.tool, "/workflows/" + m.workflow, "/projects/" + m.project} {
		read := c.do(t, 200, "GET", path, nil)
		tag := read.Header.Get("ETag")
		require.Regexp(t, `^"\d+"$`, tag)
		changed := c.with("If-Match", tag).do(t, 200, "PATCH", path, object{"name": "new name"})
		require.NotEqual(t, tag, changed.Header.Get("ETag"))
		require.Equal(t, changed.Header.Get("ETag"), c.do(t, 200, "GET", path, nil).Header.Get("ETag"))
		for _, stale := range []string{tag, `"999"`, `"x"`, `"-1"`} {
			requireProblem(t, c.with("If-Match", stale).try(t, "PATCH", path, object{"name": "newer name"}), 412, "STALE_REVISION")
			requireProblem(t, stranger.with("If-Match", stale).try(t, "PATCH", path, object{"name": "x"}), 404, "NOT_FOUND")
		}
		c.with("If-Match", "*").do(t, 200, "PATCH", path, object{"name": "newest name"})
		c.with("If-Match", "W/"+c.do(t, 200, "GET", path, nil).Header.Get("ETag")).do(t, 200, "PATCH", path, object{"name": "last name"})
		requireProblem(t, c.with("If-Match", tag).try(t, "DELETE", "/agents/"+m.agent, nil), 412, "STALE_REVISION")
	}
}

func TestMinPosition(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	written := c.do(t, 201, "POST", "/projects", object{"name": "just written"})
	position := written.Header.Get("X-Event-Position")
	read := c.with("X-Min-Position", position)
	read.get(t, "/projects/"+written.object()["id"].(string))
	for _, path := range []string{"/agents", "/tools", "/workflows", "/runs", "/projects"} {
		read.get(t, path)
	}
}

// A write whose read models do not keep up has still happened: its answer says
// so, and comes from the log.
func TestProjectionLag(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	m := s.owner.make(t, s.owner.project(t))
	s.stopProjections()
	var lags sync.WaitGroup
	for _, tc := range []struct {
		method, path string
		body         object
		status       int
		want         object
	}{
		{"POST", "/projects", object{"name": "late"}, 201, object{"name": "late", "ownerUserId": s.owner.userID}},
		{"POST", "/agents", object{"name": "late", "projectId": m.project}, 201, object{"name": "late", "projectId": m.project, "health": "healthy"}},
		{"PATCH", "/agents/" + m.agent, object{"name": "later"}, 200, object{"id": m.agent, "name": "later", "version": 2.0}},
		{"POST", "/tools", object{"name": "late", "kind": "api", "projectId": m.project}, 201, object{"name": "late", "projectId": m.project}},
		{"POST", "/workflows", object{"name": "late", "projectId": m.project}, 201, object{"projectId": m.project, "tags": []any{}, "currentVersion": 1.0}},
		{"POST", "/workflows/" + m.workflow + "/versions", object{"note": "n"}, 201, object{"version": 2.0, "status": "draft"}},
		{"POST", "/runs", object{"workflow_id": m.workflow, "agent_id": m.agent}, 201, object{"status": "queued", "workflowId": m.workflow}},
		{"PATCH", "/runs/" + m.run + "/cancel", object{}, 200, object{"id": m.run, "status": "cancelled"}},
		{"DELETE", "/tools/" + m.tool, nil, 200, object{"id": m.tool, "deleted": true}},
	} {
		lags.Go(func() {
			a := s.owner.try(t, tc.method, tc.path, tc.body)
			if a.Status != tc.status {
				t.Errorf("%s %s: %d %s", tc.method, tc.path, a.Status, a.Text)
				return
			}
			if a.Header.Get("X-Projection-Lag") != "true" {
				t.Errorf("%s %s does not say that it lags", tc.method, tc.path)
			}
			for key, value := range tc.want {
				if !reflect.DeepEqual(value, a.object()[key]) {
					t.Errorf("%s %s: %s is %v, want %v", tc.method, tc.path, key, a.object()[key], value)
				}
			}
		})
	}
	lags.Wait()
	requireProblem(t, s.owner.with("X-Min-Position", "99999999999").try(t, "GET", "/agents", nil), 503, "PROJECTION_LAG")
}

package http

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

const userKeys = "id email name role is_active is_superuser is_verified last_login_at created_at updated_at"

func TestContractAuthentication(t *testing.T) {
	t.Parallel()
	s := shared()
	c := &client{url: s.url}

	made := c.do(t, http.StatusCreated, "POST", "/auth/register", object{
		"email": "Form@Example.com", "name": "From The Form", "password": password, "role": "developer",
	}).object()
	requireKeys(t, made, userKeys)
	require.Equal(t, "Form@Example.com", made["email"])
	require.Equal(t, "developer", made["role"])
	require.Equal(t, true, made["is_active"])
	require.Equal(t, false, made["is_superuser"])
	require.Equal(t, true, made["is_verified"])
	require.Nil(t, made["last_login_at"])
	requireTime(t, made["created_at"])

	requireProblem(t, c.try(t, "POST", "/auth/register", object{"email": "form@example.COM", "name": "X", "password": password}), 409, "EMAIL_TAKEN")
	for _, role := range []string{"admin", "owner"} {
		requireProblem(t, c.try(t, "POST", "/auth/register", object{"email": "boss@example.com", "name": "X", "password": password, "role": role}), 403, "ROLE_NOT_ALLOWED")
	}
	p := requireProblem(t, c.try(t, "POST", "/auth/register", object{"email": "nobody", "name": "", "password": "short", "role": "king"}), 422, "VALIDATION_FAILED")
	require.Equal(t, []string{"email", "name", "password", "role"}, fields(p))
	p = requireProblem(t, c.try(t, "POST", "/auth/register", object{}), 422, "VALIDATION_FAILED")
	require.ElementsMatch(t, []string{"email", "name", "password"}, fields(p))

	tokens := c.do(t, 200, "POST", "/auth/login", object{"email": "form@example.com", "password": password}).object()
	requireKeys(t, tokens, "access_token refresh_token token_type expires_in")
	require.Equal(t, "bearer", tokens["token_type"])
	c.token = tokens["access_token"].(string)

	me := c.get(t, "/auth/me")
	requireKeys(t, me, userKeys)
	require.Equal(t, made["id"], me["id"])

	for _, wrong := range []object{{"email": "form@example.com", "password": "wrong password"}, {"email": "stranger@example.com", "password": password}} {
		requireProblem(t, (&client{url: s.url}).try(t, "POST", "/auth/login", wrong), 401, "INVALID_CREDENTIALS")
	}
	projects := c.get(t, "/projects?page=1&page_size=100")
	require.EqualValues(t, 1, projects["total"], "a new user finds a project of its own")
}

func TestContractRefreshKeepsTheFirstToken(t *testing.T) {
	t.Parallel()
	s := shared()
	s.user(t, domain.Viewer)
	c := s.user(t, domain.Viewer)
	login := func() object {
		return c.do(t, 200, "POST", "/auth/login", object{"email": c.get(t, "/auth/me")["email"], "password": password}).object()
	}
	first := login()["refresh_token"].(string)
	refresh := func(token string) reply {
		return (&client{url: s.url}).try(t, "POST", "/auth/refresh", object{"refresh_token": token})
	}
	// From several tabs, at the same moment, over and over.
	var tabs sync.WaitGroup
	statuses := make([]int, 4)
	for i := range statuses {
		tabs.Go(func() { statuses[i] = refresh(first).Status })
	}
	tabs.Wait()
	require.Equal(t, []int{200, 200, 200, 200}, statuses)
	answer := refresh(first)
	requireKeys(t, answer.object(), "access_token refresh_token token_type expires_in")
	fresh := &client{url: s.url, token: answer.object()["access_token"].(string)}
	fresh.get(t, "/auth/me")

	successor := answer.object()["refresh_token"].(string)
	require.Equal(t, 200, refresh(successor).Status)
	requireProblem(t, refresh(first), 401, "REFRESH_REUSED")
	requireProblem(t, refresh(successor), 401, "REFRESH_REUSED")
	require.Eventually(t, func() bool { return fresh.try(t, "GET", "/auth/me", nil).Status == 401 }, patience, 20*time.Millisecond, "the family has ended")
	requireProblem(t, refresh("rubbish"), 401, "REFRESH_INVALID")

	again := login()
	bye := (&client{url: s.url}).do(t, 200, "POST", "/auth/logout", object{"refresh_token": again["refresh_token"]}).object()
	requireKeys(t, bye, "message")
	require.Equal(t, 401, refresh(again["refresh_token"].(string)).Status)
	c.do(t, 200, "POST", "/auth/logout", nil)
	requireProblem(t, c.try(t, "GET", "/auth/me", nil), 401, "SESSION_ENDED")
	requireProblem(t, (&client{url: s.url}).try(t, "POST", "/auth/logout", nil), 401, "UNAUTHENTICATED")
}

func TestContractAPIKeys(t *testing.T) {
	t.Parallel()
	s := shared()
	c := s.user(t, domain.Developer)
	issued := c.do(t, 201, "POST", "/auth/api-key", nil).object() // no body at all
	requireKeys(t, issued, "api_key id name prefix created_at user")
	requireKeys(t, issued["user"].(object), userKeys)
	byKey := &client{url: s.url, key: issued["api_key"].(string)}
	require.Equal(t, c.userID, byKey.get(t, "/auth/me")["id"])

	replaced := c.do(t, 201, "POST", "/auth/api-key", object{"name": "ci", "expires_at": time.Now().Add(time.Hour)}).object()
	require.Equal(t, "ci", replaced["name"])
	requireProblem(t, byKey.try(t, "GET", "/auth/me", nil), 401, "API_KEY_INVALID")
	byKey.key = replaced["api_key"].(string)
	byKey.get(t, "/auth/me")
	both := &client{url: s.url, token: "rubbish", key: byKey.key}
	requireProblem(t, both.try(t, "GET", "/auth/me", nil), 401, "TOKEN_INVALID") // the bearer token counts

	more := c.do(t, 201, "POST", "/api-keys", object{"name": "reader", "scopes": []string{"agents:list"}}).object()
	list := c.get(t, "/api-keys")
	require.EqualValues(t, 2, list["total"])
	require.NotContains(t, fmt.Sprint(list), more["apiKey"])
	reader := &client{url: s.url, key: more["apiKey"].(string)}
	reader.get(t, "/agents")
	requireProblem(t, reader.try(t, "GET", "/tools", nil), 403, "SCOPE_MISSING")

	stranger := s.user(t, domain.Developer)
	requireProblem(t, stranger.try(t, "DELETE", "/api-keys/"+more["id"].(string), nil), 404, "NOT_FOUND")
	gone := c.do(t, 200, "DELETE", "/api-keys/"+more["id"].(string), nil).object()
	require.Equal(t, object{"id": more["id"], "deleted": true}, gone)
	requireProblem(t, c.try(t, "DELETE", "/api-keys/"+more["id"].(string), nil), 404, "NOT_FOUND")

	ended := c.do(t, 200, "DELETE", "/auth/api-key", nil).object()
	requireKeys(t, ended, "message")
	requireProblem(t, byKey.try(t, "GET", "/auth/me", nil), 401, "API_KEY_INVALID")
	requireProblem(t, c.try(t, "DELETE", "/auth/api-key", nil), 404, "NOT_FOUND")
}

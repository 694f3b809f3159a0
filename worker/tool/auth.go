package tool

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

// credentialScheme maps an authType of a tool, which is free text, to the way
// its credentials are sent; "" sends none.
func credentialScheme(authType string) string {
	switch strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(authType)) {
	case "bearer", "oauth", "oauth2", "token":
		return "bearer"
	case "basic":
		return "basic"
	case "apikey":
		return "apikey"
	case "custom":
		return "custom"
	default:
		return ""
	}
}

// credentials is what the stored object may hold, in the spellings users have.
type credentials map[string]any

func (c credentials) text(names ...string) string {
	for _, n := range names {
		if s, ok := c[n].(string); ok && s != "" {
			return s
		}
	}
	return ""
}

// authenticate adds the tool's credentials to a request. They go to the
// tool's configured host only: that host is fixed, redirects are not followed,
// and credentials that name a host of their own ("host") are refused for any
// other.
func (t *httpTool) authenticate(ctx context.Context, req *http.Request) error {
	if t.scheme == "" || t.auth == "" {
		return nil
	}
	unusable := func(cause error) error {
		return &Error{Code: "TOOL_CREDENTIALS", Message: "The tool's credentials cannot be used; store them again.", Cause: cause}
	}
	if t.set.open == nil {
		return unusable(nil)
	}
	plain, err := t.set.open(ctx, t.id, t.auth)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return unusable(err)
	}
	var c credentials
	if json.Unmarshal(plain, &c) != nil {
		return unusable(nil)
	}
	if host := c.text("host"); host != "" && !strings.EqualFold(host, req.URL.Host) && !strings.EqualFold(host, req.URL.Hostname()) {
		return &Error{Code: "TOOL_CREDENTIALS", Message: "The tool's credentials belong to another host; store them again for this one."}
	}
	switch t.scheme {
	case "bearer":
		req.Header.Set("Authorization", "Bearer "+c.text("token", "accessToken", "access_token", "bearerToken"))
	case "basic":
		req.SetBasicAuth(c.text("username", "user"), c.text("password"))
	case "apikey":
		key := c.text("key", "apiKey", "api_key", "token", "value")
		name := c.text("header", "headerName", "name")
		if c.text("in", "location") == "query" {
			if name == "" {
				name = "api_key"
			}
			q := req.URL.Query()
			q.Set(name, key)
			req.URL.RawQuery = q.Encode()
			return nil
		}
		if name == "" {
			name = "X-API-Key"
		}
		req.Header.Set(name, key)
	case "custom":
		headers, _ := c["headers"].(map[string]any)
		for name, value := range headers {
			if text, ok := value.(string); ok {
				req.Header.Set(name, text)
			}
		}
	}
	return nil
}

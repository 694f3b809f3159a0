package tool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sparkops/control-plane/domain/run"
	"github.com/sparkops/control-plane/worker/egress"
)

const (
	defaultTimeout = 30 * time.Second
	longestTimeout = 5 * time.Minute
	readAtMost     = 4 << 20 // bytes of an answer; what is kept of it is bounded by run.MaxPayload
	quoteAtMost    = 500     // bytes of an error answer kept in the failure
)

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// httpTool calls one configured endpoint.
type httpTool struct {
	set    *Set
	id     string
	name   string
	auth   string // sealed
	scheme string // of the credentials: bearer, basic, apikey, custom, ""
	config Config
	method string
	url    urlTemplate
	safe   bool // repeating a call does no harm
}

func (s *Set) http(id string, plan run.ToolPlan, c Config) (Tool, error) {
	invalid := func(format string, args ...any) error {
		return &Error{Code: "TOOL_CONFIG_INVALID", Message: fmt.Sprintf("The configuration of the tool %q is not valid: ", plan.Spec.Name) + fmt.Sprintf(format, args...)}
	}
	t := &httpTool{set: s, id: id, name: plan.Spec.Name, auth: plan.AuthSealed, config: c, safe: plan.RepeatSafe()}
	t.method = cmp.Or(strings.ToUpper(c.Method), http.MethodPost)
	if !slices.Contains(methods, t.method) {
		return nil, invalid("method must be one of %s.", strings.Join(methods, ", "))
	}
	var err error
	if t.url, err = parseURLTemplate(c.URL); err != nil {
		return nil, invalid("%v.", err)
	}
	t.scheme = credentialScheme(plan.Spec.AuthType)
	if t.scheme != "" && t.auth != "" && t.url.dynamicHost {
		return nil, invalid("a tool with credentials needs a fixed host in its url.")
	}
	return t, nil
}

func (t *httpTool) Effect() bool                { return true }
func (t *httpTool) Parameters() json.RawMessage { return t.config.Parameters }

// Call makes one request. Nothing is repeated here.
func (t *httpTool) Call(ctx context.Context, c Call) (json.RawMessage, error) {
	limit := min(cmp.Or(max(time.Duration(t.config.Timeout), 0), defaultTimeout), longestTimeout)
	callCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// From the first written byte on the other side may act.
	var sent atomic.Bool
	callCtx = httptrace.WithClientTrace(callCtx, &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { sent.Store(true) }})
	req, err := t.request(callCtx, c)
	if err != nil {
		return nil, err
	}
	res, err := t.client().Do(req)
	if err != nil {
		return nil, t.transportError(ctx, callCtx, err, sent.Load())
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, readAtMost+1))
	if err != nil {
		return nil, t.transportError(ctx, callCtx, err, true)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return nil, t.statusError(res, body)
	}
	if len(body) > readAtMost {
		return nil, tooLarge(readAtMost)
	}
	return t.output(res, body)
}

// client returns a client for a call. One that must not be repeated gets a
// connection of its own: on a kept one it could meet the moment the other side
// closes it, and nobody would know whether it was read.
func (t *httpTool) client() *http.Client {
	if t.safe {
		return t.set.client
	}
	return t.set.fresh
}

func (t *httpTool) request(ctx context.Context, c Call) (*http.Request, error) {
	vars, err := decodeInput(c.Arguments)
	if err != nil {
		return nil, err
	}
	target, err := t.url.fill(vars)
	if err != nil {
		return nil, err
	}
	if err := t.set.guard.CheckURL(target); err != nil {
		return nil, refused(err)
	}
	if err := t.query(target, vars); err != nil {
		return nil, err
	}
	body, kind, err := t.body(vars, c.Arguments)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, t.method, target.String(), body)
	if err != nil {
		return nil, &Error{Code: "TOOL_CONFIG_INVALID", Message: "The request could not be made.", Cause: err}
	}
	req.GetBody = nil // without it the transport cannot send anything twice
	req.Header.Set("User-Agent", "sparkops")
	req.Header.Set("Accept", "application/json, */*;q=0.5")
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for name, text := range t.config.Headers {
		value, err := fillText(text, vars, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set(name, value)
	}
	if c.Key != "" {
		req.Header.Set("Idempotency-Key", c.Key)
	}
	return req, t.authenticate(ctx, req)
}

// query adds the configured parameters, or, where neither they nor the URL nor
// a body name any argument, the arguments that are no objects.
func (t *httpTool) query(target *url.URL, vars any) error {
	q := target.Query()
	add := func(name string, value any) error {
		values, isList := value.([]any)
		if !isList {
			values = []any{value}
		}
		for _, v := range values {
			text, err := scalar(v)
			if err != nil {
				return &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: fmt.Sprintf("The query parameter %q would be an object.", name)}
			}
			q.Add(name, text)
		}
		return nil
	}
	for name, template := range t.config.Query {
		value, err := fillValue(template, vars)
		if err != nil {
			return err
		}
		if value == nil {
			continue
		}
		if err := add(name, value); err != nil {
			return err
		}
	}
	if object, ok := vars.(map[string]any); ok && len(t.config.Query) == 0 && !t.url.dynamic && !t.sendsBody() {
		for name, value := range object {
			if _, isObject := value.(map[string]any); isObject || value == nil {
				continue
			}
			if err := add(name, value); err != nil {
				return err
			}
		}
	}
	target.RawQuery = q.Encode()
	return nil
}

func (t *httpTool) sendsBody() bool {
	return len(t.config.Body) > 0 || t.method == http.MethodPost || t.method == http.MethodPut || t.method == http.MethodPatch
}

func (t *httpTool) body(vars any, arguments json.RawMessage) (io.Reader, string, error) {
	switch {
	case !t.sendsBody():
		return nil, "", nil
	case len(t.config.Body) == 0:
		if len(arguments) == 0 {
			arguments = json.RawMessage(`{}`)
		}
		return bytes.NewReader(arguments), "application/json", nil
	}
	var template any
	if err := decode(t.config.Body, &template); err != nil {
		return nil, "", &Error{Code: "TOOL_CONFIG_INVALID", Message: "The body of the tool's configuration is not valid JSON.", Cause: err}
	}
	value, err := fillValue(template, vars)
	if err != nil {
		return nil, "", err
	}
	kind := http.Header{}
	for name, v := range t.config.Headers {
		kind.Set(name, v)
	}
	if text, ok := value.(string); ok && kind.Get("Content-Type") != "" && !strings.Contains(kind.Get("Content-Type"), "json") {
		return strings.NewReader(text), "", nil
	}
	data, err := answer(value)
	if err != nil {
		return nil, "", err
	}
	return bytes.NewReader(data), "application/json", nil
}

// transportError classifies a call without a whole answer.
func (t *httpTool) transportError(ctx, callCtx context.Context, err error, sent bool) error {
	unknown := sent && !t.safe
	switch {
	case errors.Is(err, egress.ErrRefused):
		return refused(err)
	case ctx.Err() != nil && !unknown:
		return ctx.Err()
	case callCtx.Err() != nil:
		return &Error{Code: "TOOL_TIMEOUT", Message: "The tool did not answer in time.", Retryable: !unknown, Unknown: unknown, Cause: err}
	default:
		return &Error{Code: "TOOL_UNREACHABLE", Message: "The tool could not be reached or broke the connection.", Retryable: !unknown, Unknown: unknown, Cause: err}
	}
}

func refused(err error) error {
	return &Error{Code: "EGRESS_REFUSED", Message: "The address of the tool is not allowed; an operator can allow it with EGRESS_ALLOW.", Cause: err}
}

// statusError classifies an answer that is no success. Overload is always
// worth another try. Other server errors are where repeating does no harm; a
// gateway that lost the answer leaves the outcome unknown where it does.
func (t *httpTool) statusError(res *http.Response, body []byte) error {
	e := &Error{
		Code:       fmt.Sprintf("TOOL_HTTP_%d", res.StatusCode),
		Message:    fmt.Sprintf("The tool answered %d %s.", res.StatusCode, http.StatusText(res.StatusCode)),
		RetryAfter: retryAfter(res.Header, t.set.clock()),
	}
	e.Details, _ = answer(map[string]any{"status": res.StatusCode, "body": quote(body)})
	switch s := res.StatusCode; {
	case s >= 300 && s < 400:
		e.Message = fmt.Sprintf("The tool answered %d: redirects are not followed.", s)
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		e.Retryable = true
	case s == http.StatusBadGateway, s == http.StatusGatewayTimeout:
		e.Retryable, e.Unknown = t.safe, !t.safe
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusInternalServerError, s > 504:
		e.Retryable = t.safe
	}
	return e
}

func quote(body []byte) string {
	text := string(body)
	if len(text) > quoteAtMost {
		text = text[:quoteAtMost] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

func retryAfter(h http.Header, now time.Time) time.Duration {
	var d time.Duration
	if s, err := strconv.ParseInt(h.Get("Retry-After"), 10, 64); err == nil {
		d = time.Duration(min(s, 3600)) * time.Second
	} else if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), time.Hour)
}

func tooLarge(limit int) error {
	return &Error{Code: "TOOL_RESPONSE_TOO_LARGE", Message: fmt.Sprintf("The tool's answer is larger than %d KiB.", limit>>10)}
}

// output makes the result of an answer: the JSON value, or the part of it the
// configuration picks; {"text": …} of anything else; {"status": …} of nothing.
func (t *httpTool) output(res *http.Response, body []byte) (json.RawMessage, error) {
	body = bytes.TrimSpace(body)
	kind := res.Header.Get("Content-Type")
	isJSON := strings.Contains(kind, "json") || kind == "" && json.Valid(body)
	var out json.RawMessage
	var err error
	switch {
	case len(body) == 0:
		out, err = answer(map[string]int{"status": res.StatusCode})
	case isJSON && !json.Valid(body):
		return nil, &Error{Code: "TOOL_BAD_RESPONSE", Message: "The tool's answer claims to be JSON and is not.", Retryable: t.safe}
	case isJSON && t.config.Response != "":
		out, err = pick(body, t.config.Response)
	case isJSON:
		out = body
	default:
		out, err = answer(map[string]string{"text": strings.ToValidUTF8(string(body), "�")})
	}
	if err != nil {
		return nil, err
	}
	if len(out) > run.MaxPayload {
		return nil, tooLarge(run.MaxPayload)
	}
	return out, nil
}

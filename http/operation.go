package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
)

// operation declares one call of the API.
type operation struct {
	id, method, path string
	also             []string // further methods that do the same, such as PATCH beside PUT
	tag, summary     string
	description      string
	permission       domain.Permission
	system           bool     // the permission is one in the system, not in a project
	status           int      // of success; 0: 200
	reads            []string // projections its answer comes from; X-Min-Position waits for them
	once             bool     // its answer holds a secret: it is never stored for repetition
	stream           bool     // its answer lasts as long as there is something to tell
	outside          bool     // its path does not begin with the prefix of the API
}

// prefix is where the API begins.
const prefix = "/api/v1"

// register adds an operation under each of its methods. The handler gets a
// context for package commands: actor, correlation, command id and stated
// revision are set.
func register[I, O any](s *Server, op operation, handler func(context.Context, *I) (*O, error)) {
	var body *keys
	input := reflect.TypeFor[I]()
	if field, ok := input.FieldByName("Body"); ok {
		registry := s.api.OpenAPI().Components.Schemas
		body = keysOf(registry, registry.Schema(field.Type, true, op.id+"Request"))
	}
	query := queryKeys(input)
	path := prefix + op.path
	if op.outside {
		path = op.path
	}
	for i, method := range append([]string{op.method}, op.also...) {
		id := op.id
		if i > 0 {
			id += "-" + strings.ToLower(method)
		}
		s.operations = append(s.operations, declared{method, path, op.permission, op.system})
		described := huma.Operation{
			OperationID: id, Method: method, Path: path, DefaultStatus: op.status,
			Tags: []string{op.tag}, Summary: op.summary, Description: op.description,
			Metadata:        map[string]any{"permission": op.permission},
			BodyReadTimeout: -1, MaxBodyBytes: -1, // both are the input layer's matter
			Middlewares: huma.Middlewares{s.guard(op), s.fresh(op), s.input(body, query), s.repeatable(op)},
			Extensions:  map[string]any{"x-permission": string(op.permission)},
		}
		if !domain.Grants[op.permission].Public {
			described.Security = []map[string][]string{{"bearer": {}}, {"apiKey": {}}}
		}
		huma.Register(s.api, described, handler)
	}
}

// declared is what New checks of every route.
type declared struct {
	method, path string // path in the style of the description: /runs/{id}
	permission   domain.Permission
	system       bool
}

// reject answers with a problem instead of the operation.
func reject(ctx huma.Context, err error) {
	p := problemOf(ctx.Context(), err)
	p.header(ctx.SetHeader)
	ctx.SetStatus(p.Status)
	if err := json.NewEncoder(ctx.BodyWriter()).Encode(p); err != nil {
		requestOf(ctx.Context()).err = err
	}
}

// handlerTimeout bounds one operation, from the first byte of its request.
// Clients give up after 30 seconds.
const handlerTimeout = 25 * time.Second

// guard lets nobody in without a credential that counts, and with a system
// permission only those who hold it. Ids that cannot be ours are unknown.
func (s *Server) guard(op operation) func(huma.Context, func(huma.Context)) {
	grant := domain.Grants[op.permission]
	var ids []string
	for part := range strings.SplitSeq(op.path, "/") {
		if name := strings.Trim(part, "{}"); name != part && strings.HasSuffix(strings.ToLower(name), "id") {
			ids = append(ids, name)
		}
	}
	return func(ctx huma.Context, next func(huma.Context)) {
		r := requestOf(ctx.Context())
		if !grant.Public {
			if err := admitted(r, op); err != nil {
				reject(ctx, err)
				return
			}
		}
		for _, name := range ids {
			if !isID(ctx.Param(name)) {
				reject(ctx, domain.Missing())
				return
			}
		}
		inner := commands.WithActor(ctx.Context(), r.actor)
		inner = commands.WithCausation(inner, r.id, "")
		if !op.stream {
			bounded, cancel := context.WithDeadline(inner, r.begun.Add(handlerTimeout))
			defer cancel()
			inner = bounded
		}
		next(huma.WithContext(ctx, inner))
	}
}

func admitted(r *request, op operation) error {
	switch {
	case r.denied != nil:
		return r.denied
	case op.system || r.actor.Kind == domain.ActorNobody:
		return r.actor.Authorize(domain.Need{Permission: op.permission})
	default:
		// The role counts in the project of the thing, which only the state or
		// the view of the thing tells; a scope counts everywhere.
		probe := r.actor
		probe.Role, probe.Projects = domain.Owner, nil
		return probe.Authorize(domain.Need{Permission: op.permission})
	}
}

// minPositionWait bounds the wait of a read for what its caller has written.
const minPositionWait = 2 * time.Second

// fresh makes a read wait until its projections have applied X-Min-Position.
func (s *Server) fresh(op operation) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		sent := ctx.Header("X-Min-Position")
		if sent == "" || len(op.reads) == 0 {
			next(ctx)
			return
		}
		position, err := strconv.ParseUint(sent, 10, 63)
		if err != nil {
			reject(ctx, domain.InvalidFields([]domain.Field{{Field: "X-Min-Position", Message: "must be a position, a whole number"}}))
			return
		}
		bounded, cancel := context.WithTimeout(ctx.Context(), minPositionWait)
		defer cancel()
		if err := s.views.WaitFor(bounded, position, op.reads...); err != nil {
			reject(ctx, err)
			return
		}
		next(ctx)
	}
}

// Bounds of a body.
const (
	maxBody         = 1 << 20
	bodyReadTimeout = 15 * time.Second
)

// humaContext is huma.Context under a name that can be embedded: it has a
// method of its own name.
type humaContext = huma.Context

// inputContext is a request whose body and query are in canonical keys.
type inputContext struct {
	humaContext
	body  []byte
	query url.Values
}

func (c *inputContext) Unwrap() huma.Context     { return c.humaContext }
func (c *inputContext) BodyReader() io.Reader    { return bytes.NewReader(c.body) }
func (c *inputContext) Query(name string) string { return c.query.Get(name) }

func (c *inputContext) URL() url.URL {
	u := c.humaContext.URL()
	u.RawQuery = c.query.Encode()
	return u
}

// Header hides the charset of a content type that has been checked already.
func (c *inputContext) Header(name string) string {
	if strings.EqualFold(name, "Content-Type") {
		return "application/json"
	}
	return c.humaContext.Header(name)
}

// input reads the body, within its bounds, and brings it and the query into
// canonical keys.
func (s *Server) input(body *keys, query map[string]string) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		sent := ctx.URL()
		parameters, err := url.ParseQuery(sent.RawQuery)
		if err != nil {
			reject(ctx, domain.Fail(domain.Malformed, "MALFORMED", "The query of the address cannot be read."))
			return
		}
		found := styled{names: map[string]string{}}
		in := &inputContext{humaContext: ctx, query: found.query(query, parameters)}
		if body != nil {
			raw, err := readBody(ctx)
			if err == nil && len(raw) > 0 {
				if err = checkJSON(raw); err == nil {
					in.body, err = found.body(body, "", raw)
				}
			}
			if err != nil {
				reject(ctx, err)
				return
			}
		}
		requestOf(ctx.Context()).names = found.names
		if len(found.fields) > 0 {
			requestOf(ctx.Context()).names = nil // these fields are named as sent
			reject(ctx, domain.InvalidFields(found.fields))
			return
		}
		next(in)
	}
}

// readBody returns the whole body, nil for none.
func readBody(ctx huma.Context) ([]byte, error) {
	if err := ctx.SetReadDeadline(time.Now().Add(bodyReadTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("bound the reading of the body: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(ctx.BodyReader(), maxBody+1))
	if again := ctx.SetReadDeadline(time.Time{}); again != nil && !errors.Is(again, http.ErrNotSupported) {
		return nil, fmt.Errorf("unbound the reading of the body: %w", again)
	}
	var network net.Error
	switch {
	case errors.As(err, &network) && network.Timeout():
		return nil, statusProblem(http.StatusRequestTimeout)
	case err != nil:
		return nil, domain.Fail(domain.Malformed, "MALFORMED", "The body ended before it was complete.")
	case len(raw) > maxBody:
		return nil, statusProblem(http.StatusRequestEntityTooLarge)
	case len(bytes.TrimSpace(raw)) == 0:
		return nil, nil
	case !isJSON(ctx.Header("Content-Type")):
		return nil, statusProblem(http.StatusUnsupportedMediaType)
	default:
		return raw, nil
	}
}

// isJSON accepts application/json and what builds on it, in UTF-8. A body
// without a content type counts as JSON.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return false
	}
	return kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
}

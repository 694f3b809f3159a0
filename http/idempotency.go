package http

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/readmodels"
)

// stating passes If-Match on to commands. A tag that is none of ours matches
// no revision.
func stating(ctx huma.Context) context.Context {
	inner := ctx.Context()
	sent := strings.TrimSpace(ctx.Header("If-Match"))
	if sent == "" || sent == "*" {
		return inner
	}
	revision, err := strconv.ParseInt(strings.Trim(strings.TrimPrefix(sent, "W/"), `"`), 10, 64)
	if err != nil || revision < 0 {
		revision = neverRevision
	}
	return commands.WithIfMatch(inner, revision)
}

const neverRevision = -2 // no stream is ever at it

var idempotencyKey = regexp.MustCompile(`^[\x21-\x7e]{1,255}$`)

// repeatable makes writes safe to repeat: If-Match goes to the command, and a
// request with an Idempotency-Key is carried out under one command id however
// often it is sent. Once it succeeded the first answer is given again. The
// reservation comes first, so that a crash in between repeats nothing.
func (s *Server) repeatable(op operation) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if ctx.Method() == http.MethodGet {
			next(ctx)
			return
		}
		ctx = huma.WithContext(ctx, stating(ctx))
		key, r := ctx.Header("Idempotency-Key"), requestOf(ctx.Context())
		if key == "" || op.once || r.actor.ID == "" {
			next(ctx)
			return
		}
		if !idempotencyKey.MatchString(key) {
			reject(ctx, domain.InvalidFields([]domain.Field{{Field: "Idempotency-Key", Message: "must be 1 to 255 visible ASCII characters"}}))
			return
		}
		wanted := readmodels.Request{Actor: r.actor.ID, Key: key, BodyHash: fingerprint(ctx), CommandID: commands.NewID()}
		reserved, fresh, err := s.views.Reserve(ctx.Context(), wanted)
		switch {
		case err != nil:
			reject(ctx, err)
		case !fresh && reserved.BodyHash != wanted.BodyHash:
			reject(ctx, domain.Fail(domain.Invalid, "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used for another request."))
		case !fresh && reserved.Answered():
			replay(ctx, reserved)
		default:
			s.carryOut(ctx, reserved, next)
		}
	}
}

// carryOut runs the operation under its reserved command id and keeps its answer. What
// failed without having happened frees the key; what may have happened keeps
// it, to be repeated under the same command id.
func (s *Server) carryOut(ctx huma.Context, reserved readmodels.Request, next func(huma.Context)) {
	inner := commands.WithBodyHash(commands.WithCommandID(ctx.Context(), reserved.CommandID), reserved.BodyHash)
	rec := &recorder{humaContext: huma.WithContext(ctx, inner), header: http.Header{}, status: http.StatusOK}
	next(rec)

	finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx.Context()), 5*time.Second)
	defer cancel()
	var err error
	switch {
	case rec.status < 300:
		reserved.Status, reserved.Body, reserved.Headers = rec.status, rec.body.Bytes(), map[string][]string{}
		for _, name := range []string{"Content-Type", "ETag", "Location", "X-Event-Position"} {
			if values := rec.header.Values(name); len(values) > 0 {
				reserved.Headers[name] = values
			}
		}
		err = s.views.Complete(finishing, reserved)
	case rec.status < 500:
		err = s.views.Forget(finishing, reserved.Actor, reserved.Key, reserved.CommandID)
	}
	if err != nil {
		s.log.WarnContext(ctx.Context(), "the answer to a repeatable request was not kept", "error", err)
	}
	rec.send(ctx)
}

func replay(ctx huma.Context, earlier readmodels.Request) {
	for name, values := range earlier.Headers {
		for _, value := range values {
			ctx.SetHeader(name, value)
		}
	}
	ctx.SetHeader("Idempotency-Replayed", "true")
	ctx.SetStatus(earlier.Status)
	if _, err := ctx.BodyWriter().Write(earlier.Body); err != nil {
		requestOf(ctx.Context()).err = err
	}
}

// fingerprint identifies what was asked for: method, path, query and body,
// whatever their key style and the order of keys.
func fingerprint(ctx huma.Context) string {
	u := ctx.URL()
	h := sha256.New()
	io.WriteString(h, ctx.Method()+"\n"+u.Path+"\n"+u.RawQuery+"\n")
	if in, ok := ctx.(interface{ BodyReader() io.Reader }); ok {
		raw, err := io.ReadAll(in.BodyReader())
		if err == nil && len(raw) > 0 {
			h.Write(sortedJSON(raw))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sortedJSON(raw []byte) []byte {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	if dec.Decode(&value) != nil {
		return raw
	}
	sorted, err := json.Marshal(value)
	if err != nil {
		return raw
	}
	return sorted
}

// recorder holds an answer back until it has been kept.
type recorder struct {
	humaContext
	status int
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Unwrap() huma.Context            { return r.humaContext }
func (r *recorder) SetStatus(code int)              { r.status = code }
func (r *recorder) Status() int                     { return r.status }
func (r *recorder) SetHeader(name, value string)    { r.header.Set(name, value) }
func (r *recorder) AppendHeader(name, value string) { r.header.Add(name, value) }
func (r *recorder) BodyWriter() io.Writer           { return &r.body }

func (r *recorder) send(ctx huma.Context) {
	for _, name := range slices.Sorted(maps.Keys(r.header)) {
		for _, value := range r.header[name] {
			ctx.SetHeader(name, value)
		}
	}
	ctx.SetStatus(r.status)
	if _, err := ctx.BodyWriter().Write(r.body.Bytes()); err != nil {
		requestOf(ctx.Context()).err = err
	}
}

package http

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
	"github.com/labstack/echo/v4"

	"github.com/sparkops/control-plane/domain"
)

// Problem is every error answer: problem details (RFC 9457) together with what
// the frontend reads (message, code, details). It never holds submitted values
// or internal texts.
type Problem struct {
	Type      string         `json:"type" doc:"Reference to the description of this kind of problem." example:"/docs#problem-invalid"`
	Title     string         `json:"title" doc:"The status in words." example:"Unprocessable Entity"`
	Status    int            `json:"status" doc:"The HTTP status." example:"422"`
	Detail    string         `json:"detail" doc:"The same sentence as message."`
	Instance  string         `json:"instance" doc:"The path that was asked for."`
	Message   string         `json:"message" doc:"What went wrong, for users."`
	Code      string         `json:"code" doc:"Stable name of the problem." example:"VALIDATION_FAILED"`
	Details   []domain.Field `json:"details" doc:"Every broken rule of the input, by field."`
	RequestID string         `json:"requestId" doc:"Identifies the request in the log."`

	retryAfter int
}

// Error and GetStatus make a Problem an error huma can send.
func (p *Problem) Error() string  { return p.Code + ": " + p.Message }
func (p *Problem) GetStatus() int { return p.Status }

// ContentType names the media type of problem documents.
func (p *Problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// statusClientGone is what the log says of requests nobody waited for.
const statusClientGone = 499

// answer is how one kind of error is answered.
type answer struct {
	status     int
	retryAfter int // seconds; 0: no header
}

// answers is the one table from kinds to statuses. What it does not list is a
// 500 without internals.
var answers = map[domain.Kind]answer{
	domain.Malformed:      {status: http.StatusBadRequest},
	domain.Unauthorized:   {status: http.StatusUnauthorized},
	domain.Forbidden:      {status: http.StatusForbidden},
	domain.NotFound:       {status: http.StatusNotFound},
	domain.Conflict:       {status: http.StatusConflict},
	domain.StaleRevision:  {status: http.StatusPreconditionFailed},
	domain.TooLarge:       {status: http.StatusRequestEntityTooLarge},
	domain.Invalid:        {status: http.StatusUnprocessableEntity},
	domain.RateLimited:    {status: http.StatusTooManyRequests, retryAfter: 1},
	domain.Unavailable:    {status: http.StatusServiceUnavailable, retryAfter: 2},
	domain.OutcomeUnknown: {status: http.StatusServiceUnavailable, retryAfter: 2},
	domain.StorageFull:    {status: http.StatusInsufficientStorage, retryAfter: 60},
}

// transport describes the problems that arise before any domain rule.
var transport = map[int]struct{ code, message string }{
	http.StatusBadRequest:            {"MALFORMED", "The request could not be read."},
	http.StatusNotFound:              {"NOT_FOUND", "There is no such address."},
	http.StatusMethodNotAllowed:      {"METHOD_NOT_ALLOWED", "This address does not take this method."},
	http.StatusNotAcceptable:         {"NOT_ACCEPTABLE", "The answer is JSON only."},
	http.StatusRequestTimeout:        {"REQUEST_TIMEOUT", "The request took too long to arrive."},
	http.StatusRequestEntityTooLarge: {"TOO_LARGE", "The request is larger than 1 MiB."},
	http.StatusUnsupportedMediaType:  {"UNSUPPORTED_MEDIA_TYPE", "The body must be JSON, with the content type application/json."},
	http.StatusUnprocessableEntity:   {"VALIDATION_FAILED", "The request is not valid."},
	http.StatusServiceUnavailable:    {"UNAVAILABLE", "The service does not answer at the moment; try again."},
}

// problemOf turns any error into its answer and notes the cause for the log.
func problemOf(ctx context.Context, err error) *Problem {
	var ready *Problem
	var failure *domain.Error
	var routed *echo.HTTPError
	switch {
	case errors.As(err, &ready):
		return ready.in(ctx, err)
	case errors.As(err, &failure) && answers[failure.Kind].status != 0:
		a := answers[failure.Kind]
		p := newProblem(a.status, failure.Code, failure.Message, failure.Fields)
		p.Type, p.retryAfter = "/docs#problem-"+string(failure.Kind), a.retryAfter
		var retry *retryError
		if errors.As(err, &retry) {
			p.retryAfter = retry.after
		}
		return p.in(ctx, err)
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return newProblem(statusClientGone, "CLIENT_GONE", "The client went away.", nil).in(ctx, nil)
	case errors.Is(err, context.DeadlineExceeded):
		p := statusProblem(http.StatusServiceUnavailable)
		p.retryAfter = answers[domain.Unavailable].retryAfter
		return p.in(ctx, err)
	case errors.As(err, &routed) && routed.Code < http.StatusInternalServerError:
		return statusProblem(routed.Code).in(ctx, nil)
	default:
		return newProblem(http.StatusInternalServerError, "INTERNAL", "Something went wrong on our side. It has been logged.", nil).in(ctx, err)
	}
}

func newProblem(status int, code, message string, fields []domain.Field) *Problem {
	if fields == nil {
		fields = []domain.Field{}
	}
	return &Problem{
		Type: "/docs#problem-" + strings.ToLower(code), Title: http.StatusText(status), Status: status,
		Detail: message, Message: message, Code: code, Details: fields,
	}
}

// statusProblem describes a transport problem by its status.
func statusProblem(status int) *Problem {
	if t, ok := transport[status]; ok {
		return newProblem(status, t.code, t.message, nil)
	}
	text := http.StatusText(status)
	return newProblem(status, strings.ToUpper(strings.ReplaceAll(text, " ", "_")), text+".", nil)
}

// in fills in what the request knows: its address, its id and the key style
// the caller used.
func (p *Problem) in(ctx context.Context, cause error) *Problem {
	r := requestOf(ctx)
	out := *p
	out.Instance, out.RequestID = r.path, r.id
	out.Details = make([]domain.Field, len(p.Details))
	for i, f := range p.Details {
		out.Details[i] = domain.Field{Field: r.asSent(f.Field), Message: f.Message}
	}
	r.code = out.Code
	if cause != nil {
		r.err = cause
	}
	return &out
}

// header sets the headers that belong to the problem.
func (p *Problem) header(set func(name, value string)) {
	set("Content-Type", problemType)
	if p.retryAfter > 0 {
		set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	if p.Status == http.StatusUnauthorized {
		set("WWW-Authenticate", `Bearer realm="sparkops"`)
	}
}

// writeProblem answers an echo request with a problem, unless an answer has
// begun already.
func writeProblem(c echo.Context, err error) {
	p := problemOf(c.Request().Context(), err)
	if c.Response().Committed {
		return
	}
	p.header(c.Response().Header().Set)
	if err := c.JSON(p.Status, p); err != nil {
		requestOf(c.Request().Context()).err = err
	}
}

// configureHuma sets the package variables of huma that decide how errors look
// and how schemas are made. They are the same for every Server.
var configureHuma = sync.OnceFunc(func() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return humaProblem(context.Background(), nil, status, message, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		if ctx == nil {
			return humaProblem(context.Background(), nil, status, message, errs)
		}
		return humaProblem(ctx.Context(), ctx.SetHeader, status, message, errs)
	}
	huma.DefaultArrayNullable = false
	huma.ValidateStrictCasing = true
	validation.MsgExpectedString = "must be a string"
	validation.MsgExpectedBoolean = "must be true or false"
	validation.MsgExpectedNumber = "must be a number"
	validation.MsgExpectedInteger = "must be a whole number"
	validation.MsgExpectedArray = "must be a list"
	validation.MsgExpectedObject = "must be an object"
	validation.MsgExpectedOneOf = "must be one of %s"
	validation.MsgExpectedRFC3339DateTime = "must be a time such as 2026-01-31T12:00:00Z"
	validation.MsgExpectedMinimumNumber = "must be at least %v"
	validation.MsgExpectedMaximumNumber = "must be at most %v"
	validation.MsgExpectedMinLength = "must be at least %d characters long"
	validation.MsgExpectedMaxLength = "must be at most %d characters long"
	validation.MsgExpectedMinItems = "must have at least %d entries"
	validation.MsgExpectedMaxItems = "must have at most %d entries"
	validation.MsgExpectedMatchPattern = "must match %s"
	validation.MsgExpectedRequiredProperty = requiredPrefix + "%s"
})

const requiredPrefix = "required property: "

// humaProblem builds the answer to what huma found wrong, or to the error of a
// handler, which huma passes on as the only one of a 500.
func humaProblem(ctx context.Context, set func(name, value string), status int, message string, errs []error) *Problem {
	var p *Problem
	switch {
	case status >= http.StatusInternalServerError && len(errs) == 1:
		p = problemOf(ctx, errs[0])
	case status == http.StatusUnprocessableEntity:
		p = invalid(detailFields(errs)).in(ctx, nil)
	default:
		p = statusProblem(status)
		if status == http.StatusBadRequest && len(errs) == 0 {
			p = newProblem(status, "BODY_REQUIRED", "The request needs a JSON body.", nil)
		}
		p = p.in(ctx, fmt.Errorf("%s: %w", message, errors.Join(errs...)))
	}
	if set != nil {
		p.header(set)
	}
	return p
}

// invalid is the 422 that lists every broken rule.
func invalid(fields []domain.Field) *Problem {
	var failure *domain.Error
	if !errors.As(domain.InvalidFields(fields), &failure) {
		return statusProblem(http.StatusUnprocessableEntity)
	}
	p := newProblem(http.StatusUnprocessableEntity, failure.Code, failure.Message, fields)
	p.Type = "/docs#problem-" + string(domain.Invalid)
	return p
}

var goField = regexp.MustCompile(`Go struct field \S+?\.(\S+) of type`)

// detailFields turns huma's findings into fields: without the location's first
// part (body, query …) and without anything that was submitted.
func detailFields(errs []error) []domain.Field {
	fields := make([]domain.Field, 0, len(errs))
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if !errors.As(err, &detail) {
			continue
		}
		place, path, _ := strings.Cut(detail.Location, ".")
		f := domain.Field{Field: path, Message: detail.Message}
		switch name, missing := strings.CutPrefix(detail.Message, requiredPrefix); {
		case missing:
			f = domain.Field{Field: strings.TrimPrefix(path+"."+name, "."), Message: "is required"}
		case strings.HasPrefix(detail.Message, "json: ") || strings.Contains(detail.Message, "Go struct field"):
			f.Message = "is of the wrong type or out of range"
			if m := goField.FindStringSubmatch(detail.Message); m != nil {
				f.Field = m[1]
			}
		case strings.HasPrefix(detail.Message, "invalid "):
			f.Message = "is not valid"
		case strings.HasPrefix(detail.Message, "required "):
			f.Message = "is required"
		}
		if f.Field == "" {
			f.Field = place
		}
		fields = append(fields, f)
	}
	return fields
}

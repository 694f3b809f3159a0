package llm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// OpenAIName is the Provider of responses of an OpenAI client.
const OpenAIName = "openai"

// OpenAI calls the chat completions of any compatible service: OpenAI, Azure,
// Ollama, vLLM, LiteLLM, or Server. It never repeats a call. It is safe for
// concurrent use.
type OpenAI struct {
	// BaseURL is the address up to and including the version, for example
	// "https://api.openai.com/v1".
	BaseURL string

	// APIKey is sent as a bearer token; "" sends none. It is never sent
	// anywhere but to BaseURL.
	APIKey string

	// Client carries the requests; nil means a plain one. Redirects are never
	// followed, whatever it says.
	Client *http.Client

	// Timeout bounds one call, 5 minutes where 0.
	Timeout time.Duration

	// MaxResponse bounds the bytes of an answer, 8 MiB where 0.
	MaxResponse int64

	// Clock is used for Retry-After dates; nil means time.Now.
	Clock func() time.Time
}

// Check reports a configuration that cannot work. It sends nothing.
func (o *OpenAI) Check() error {
	u, err := url.Parse(o.BaseURL)
	switch {
	case err != nil:
		return errors.New("the base URL of the model provider is not a URL")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return errors.New("the base URL of the model provider must be an http or https URL")
	case u.User != nil:
		return errors.New("the base URL of the model provider must not hold credentials")
	}
	return nil
}

// Complete makes one call.
func (o *OpenAI) Complete(ctx context.Context, r Request) (Response, error) {
	body, err := json.Marshal(wireRequestOf(r))
	if err != nil {
		return Response{}, &Error{Code: "MODEL_BAD_REQUEST", Message: "The request to the model could not be written.", Cause: err}
	}
	limit := cmp.Or(o.Timeout, 5*time.Minute)
	callCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(callCtx, http.MethodPost, strings.TrimRight(o.BaseURL, "/")+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return Response{}, &Error{Code: "MODEL_BAD_REQUEST", Message: "The address of the model provider is not valid.", Cause: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if o.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+o.APIKey)
	}
	if r.Key != "" {
		req.Header.Set("Idempotency-Key", r.Key)
	}
	res, err := o.client().Do(req)
	if err != nil {
		return Response{}, o.transportError(ctx, callCtx, err)
	}
	defer res.Body.Close()
	maxBytes := cmp.Or(o.MaxResponse, 8<<20)
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBytes+1))
	if err != nil {
		return Response{}, o.transportError(ctx, callCtx, err)
	}
	if int64(len(data)) > maxBytes {
		return Response{}, &Error{Code: "MODEL_RESPONSE_TOO_LARGE", Message: fmt.Sprintf("The model's answer is larger than %d bytes.", maxBytes), Status: res.StatusCode}
	}
	if res.StatusCode != http.StatusOK {
		return Response{}, o.statusError(res, data)
	}
	return readCompletion(r, data)
}

func (o *OpenAI) client() *http.Client {
	c := http.Client{}
	if o.Client != nil {
		c = *o.Client
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// transportError classifies a call without a complete answer. Repeating it is
// always allowed: at worst the provider has counted tokens we never saw.
func (o *OpenAI) transportError(ctx, callCtx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var timeout net.Error
	if callCtx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return &Error{Code: "MODEL_TIMEOUT", Message: "The model provider did not answer in time.", Retryable: true, Cause: err}
	}
	return &Error{Code: "MODEL_UNREACHABLE", Message: "The model provider could not be reached or broke the connection.", Retryable: true, Cause: err}
}

func (o *OpenAI) statusError(res *http.Response, data []byte) error {
	var body struct {
		Error struct {
			Message string `json:"message"`
			Type    string `json:"type"`
			Code    any    `json:"code"`
		} `json:"error"`
	}
	_ = json.Unmarshal(data, &body) // an unreadable body leaves the status to speak
	code, _ := body.Error.Code.(string)
	e := &Error{Code: fmt.Sprintf("MODEL_HTTP_%d", res.StatusCode), Status: res.StatusCode, RetryAfter: retryAfter(res.Header, o.now())}
	e.Message = fmt.Sprintf("The model provider answered %d.", res.StatusCode)
	if text := o.safe(body.Error.Message); text != "" {
		e.Message = fmt.Sprintf("The model provider answered %d: %s", res.StatusCode, text)
	}
	switch s := res.StatusCode; {
	case code == "insufficient_quota" || body.Error.Type == "insufficient_quota":
		e.Code = "MODEL_QUOTA_EXHAUSTED"
	case code == "context_length_exceeded":
		e.Code = "MODEL_CONTEXT_LENGTH"
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		e.Message = "The model provider refused the credentials." // its text may quote them
	case s == http.StatusRequestTimeout, s == http.StatusConflict, s == http.StatusTooManyRequests, s == 425, s >= 500:
		e.Retryable = true
	}
	return e
}

// safe cuts a provider's text and takes our credential out of it.
func (o *OpenAI) safe(text string) string {
	if o.APIKey != "" {
		text = strings.ReplaceAll(text, o.APIKey, "***")
	}
	text = strings.Join(strings.Fields(text), " ")
	const most = 500
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func (o *OpenAI) now() time.Time {
	if o.Clock != nil {
		return o.Clock()
	}
	return time.Now()
}

// retryAfter reads Retry-After (seconds or a date) or retry-after-ms, at most
// one hour.
func retryAfter(h http.Header, now time.Time) time.Duration {
	var d time.Duration
	if ms, err := strconv.ParseInt(h.Get("Retry-After-Ms"), 10, 64); err == nil {
		d = time.Duration(min(ms, 3_600_000)) * time.Millisecond
	} else if s, err := strconv.ParseFloat(h.Get("Retry-After"), 64); err == nil {
		d = time.Duration(min(s, 3600) * float64(time.Second))
	} else if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), time.Hour)
}

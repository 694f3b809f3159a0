package llm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Server serves the simulated provider in the OpenAI wire format:
// POST /v1/chat/completions (with and without stream) and GET /v1/models.
// Scripted faults become HTTP answers, broken connections or silence. It is
// what `sparkops mock-llm` runs; any other client of that format works too.
type Server struct {
	// Models are the names GET /v1/models lists; any name is answered.
	Models []string

	// APIKey, when set, is required as a bearer token.
	APIKey string

	// Clock stamps the answers; nil means time.Now.
	Clock func() time.Time
}

// maxRequest bounds a request's body.
const maxRequest = 16 << 20

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.APIKey != "" && r.Header.Get("Authorization") != "Bearer "+s.APIKey {
		fail(w, http.StatusUnauthorized, "invalid_api_key", "Incorrect API key provided.")
		return
	}
	switch {
	case r.URL.Path == "/v1/models" && r.Method == http.MethodGet:
		s.models(w)
	case r.URL.Path == "/v1/chat/completions" && r.Method == http.MethodPost:
		s.complete(w, r)
	case r.URL.Path == "/v1/models" || r.URL.Path == "/v1/chat/completions":
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "This method is not allowed here.")
	default:
		fail(w, http.StatusNotFound, "not_found", "There is no such endpoint.")
	}
}

func (s *Server) models(w http.ResponseWriter) {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		OwnedBy string `json:"owned_by"`
	}
	list := make([]model, 0, len(s.Models))
	for _, id := range s.Models {
		list = append(list, model{ID: id, Object: "model", OwnedBy: SimulatedName})
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "request_too_large", "The request is too large.")
		return
	}
	var in wireRequest
	if err := json.Unmarshal(data, &in); err != nil {
		fail(w, http.StatusBadRequest, "invalid_json", "The request is not a chat completion request.")
		return
	}
	if in.Model == "" || len(in.Messages) == 0 {
		fail(w, http.StatusBadRequest, "missing_required_parameter", "model and messages are required.")
		return
	}
	if in.Temperature != nil && (*in.Temperature < 0 || *in.Temperature > 2) {
		fail(w, http.StatusBadRequest, "decimal_out_of_range", "temperature must be between 0 and 2.")
		return
	}
	answer, fault, err := simulate(in.request(r.Header.Get("Idempotency-Key")))
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_directive", err.Error())
		return
	}
	if wait(r.Context(), answer.latency) != nil {
		return // the client is gone
	}
	if fault != nil {
		s.fault(w, r, fault)
		return
	}
	out := wireResponse{
		ID: "chatcmpl-" + digest(data), Object: "chat.completion", Created: s.now().Unix(), Model: in.Model,
		Choices: []wireChoice{{Message: wireMessageOf(answer.Message), FinishReason: answer.FinishReason}},
		Usage:   wireUsageOf(answer.Usage),
	}
	if in.Stream {
		s.stream(w, in, out)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Server) now() time.Time {
	if s.Clock != nil {
		return s.Clock()
	}
	return time.Now()
}

func (w wireRequest) request(key string) Request {
	r := Request{Model: w.Model, Key: key}
	for _, m := range w.Messages {
		r.Messages = append(r.Messages, m.message())
	}
	for _, t := range w.Tools {
		r.Tools = append(r.Tools, t.Function)
	}
	if w.ResponseFormat != nil && w.ResponseFormat.JSONSchema != nil {
		r.Schema = w.ResponseFormat.JSONSchema.Schema
	}
	return r
}

func (s *Server) fault(w http.ResponseWriter, r *http.Request, f *Fault) {
	switch f.Kind {
	case "timeout":
		<-r.Context().Done()
	case "disconnect":
		panic(http.ErrAbortHandler) // the server's documented way to drop a connection
	case "malformed":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"chatcmpl-broken","choices":[{"mess`)
	default:
		status, header, body := f.answer()
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}
}

// answer is the fault as an HTTP answer.
func (f *Fault) answer() (status int, header http.Header, body []byte) {
	status = f.Status
	if status < 400 || status > 599 {
		status = http.StatusInternalServerError
	}
	header = http.Header{"Content-Type": {"application/json"}}
	if f.RetryAfter > 0 {
		header.Set("Retry-After", strconv.FormatFloat(math.Ceil(time.Duration(f.RetryAfter).Seconds()), 'f', -1, 64))
		header.Set("Retry-After-Ms", strconv.FormatInt(time.Duration(f.RetryAfter).Milliseconds(), 10))
	}
	message := f.Message
	if message == "" {
		message = "Simulated fault."
	}
	body, _ = json.Marshal(errorBody(f.Code, message)) // strings always marshal
	return status, header, body
}

// stream sends the answer as server-sent events: the whole message as one
// delta, the end, the usage when it was asked for.
func (s *Server) stream(w http.ResponseWriter, in wireRequest, out wireResponse) {
	w.Header().Set("Content-Type", "text/event-stream")
	type call struct {
		Index int `json:"index"`
		wireToolCall
	}
	calls := make([]call, 0, len(out.Choices[0].Message.ToolCalls))
	for i, c := range out.Choices[0].Message.ToolCalls {
		calls = append(calls, call{i, c})
	}
	delta := map[string]any{"role": Assistant, "content": out.Choices[0].Message.Content}
	if len(calls) > 0 {
		delta["tool_calls"] = calls
	}
	chunk := func(choices []map[string]any, usage *wireUsage) {
		body := map[string]any{"id": out.ID, "object": "chat.completion.chunk", "created": out.Created, "model": out.Model, "choices": choices}
		if usage != nil {
			body["usage"] = usage
		}
		data, err := json.Marshal(body)
		if err != nil {
			return
		}
		_, _ = w.Write([]byte("data: " + string(data) + "\n\n"))
	}
	chunk([]map[string]any{{"index": 0, "delta": delta, "finish_reason": nil}}, nil)
	chunk([]map[string]any{{"index": 0, "delta": map[string]any{}, "finish_reason": out.Choices[0].FinishReason}}, nil)
	var options struct {
		IncludeUsage bool `json:"include_usage"`
	}
	if json.Unmarshal(in.StreamOptions, &options) == nil && options.IncludeUsage {
		chunk([]map[string]any{}, out.Usage)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

func errorBody(code, message string) map[string]any {
	return map[string]any{"error": map[string]any{"message": message, "type": "error", "param": nil, "code": code}}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, errorBody(code, message))
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

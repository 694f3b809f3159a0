package llm

import (
	"encoding/json"
	"strings"

	"github.com/sparkops/control-plane/domain"
)

// The chat completions format, as far as we use it. OpenAI writes it and
// Server reads it, so both sides share the types.
type (
	wireRequest struct {
		Model               string          `json:"model"`
		Messages            []wireMessage   `json:"messages"`
		Tools               []wireTool      `json:"tools,omitempty"`
		Temperature         *float64        `json:"temperature,omitempty"`
		MaxTokens           int64           `json:"max_tokens,omitempty"`
		MaxCompletionTokens int64           `json:"max_completion_tokens,omitempty"`
		ResponseFormat      *wireFormat     `json:"response_format,omitempty"`
		Stream              bool            `json:"stream,omitempty"`
		StreamOptions       json.RawMessage `json:"stream_options,omitempty"`
	}
	wireMessage struct {
		Role       string         `json:"role"`
		Content    *wireText      `json:"content"`
		Refusal    string         `json:"refusal,omitempty"`
		ToolCalls  []wireToolCall `json:"tool_calls,omitempty"`
		ToolCallID string         `json:"tool_call_id,omitempty"`
	}
	wireToolCall struct {
		ID       string       `json:"id"`
		Type     string       `json:"type"`
		Function wireFunction `json:"function"`
	}
	wireFunction struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	}
	wireTool struct {
		Type     string `json:"type"`
		Function Tool   `json:"function"`
	}
	wireFormat struct {
		Type       string          `json:"type"`
		JSONSchema *wireJSONSchema `json:"json_schema,omitempty"`
	}
	wireJSONSchema struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema,omitempty"`
	}
	wireResponse struct {
		ID      string       `json:"id"`
		Object  string       `json:"object"`
		Created int64        `json:"created"`
		Model   string       `json:"model"`
		Choices []wireChoice `json:"choices"`
		Usage   *wireUsage   `json:"usage,omitempty"`
	}
	wireChoice struct {
		Index        int         `json:"index"`
		Message      wireMessage `json:"message"`
		FinishReason string      `json:"finish_reason"`
	}
	wireUsage struct {
		PromptTokens     int64             `json:"prompt_tokens"`
		CompletionTokens int64             `json:"completion_tokens"`
		TotalTokens      int64             `json:"total_tokens"`
		Prompt           *promptDetails    `json:"prompt_tokens_details,omitempty"`
		Completion       *completionDetail `json:"completion_tokens_details,omitempty"`
	}
	promptDetails struct {
		Cached     int64 `json:"cached_tokens"`
		CacheWrite int64 `json:"cache_write_tokens,omitempty"`
	}
	completionDetail struct {
		Reasoning int64 `json:"reasoning_tokens"`
	}
)

// wireText is a content: a string, or a list of parts whose texts are joined.
type wireText string

// UnmarshalJSON reads both forms.
func (t *wireText) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		*t = wireText(text)
		return nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	var all strings.Builder
	for _, p := range parts {
		all.WriteString(p.Text)
	}
	*t = wireText(all.String())
	return nil
}

func wireRequestOf(r Request) wireRequest {
	w := wireRequest{Model: r.Model, Messages: make([]wireMessage, 0, len(r.Messages))}
	for _, m := range r.Messages {
		w.Messages = append(w.Messages, wireMessageOf(m))
	}
	for _, t := range r.Tools {
		if len(t.Parameters) == 0 {
			t.Parameters = json.RawMessage(`{"type":"object"}`)
		}
		w.Tools = append(w.Tools, wireTool{Type: "function", Function: t})
	}
	// Reasoning models refuse a temperature and the old name of the limit.
	if reasons(r.Model) {
		w.MaxCompletionTokens = r.MaxTokens
	} else {
		w.MaxTokens = r.MaxTokens
		if r.Temperature != nil {
			t := Temperature(*r.Temperature)
			w.Temperature = &t
		}
	}
	if len(r.Schema) > 0 {
		w.ResponseFormat = &wireFormat{Type: "json_schema", JSONSchema: &wireJSONSchema{Name: "answer", Schema: r.Schema}}
	}
	return w
}

func reasons(model string) bool {
	model = strings.ToLower(model[strings.LastIndexByte(model, '/')+1:])
	for _, family := range []string{"o1", "o3", "o4", "gpt-5", "gpt-6"} {
		if model == family || strings.HasPrefix(model, family+"-") || strings.HasPrefix(model, family+".") {
			return !strings.Contains(model, "-chat")
		}
	}
	return false
}

func wireMessageOf(m Message) wireMessage {
	w := wireMessage{Role: m.Role, ToolCallID: m.ToolCallID}
	if m.Content != "" || len(m.ToolCalls) == 0 {
		text := wireText(m.Content)
		w.Content = &text
	}
	for _, c := range m.ToolCalls {
		w.ToolCalls = append(w.ToolCalls, wireToolCall{ID: c.ID, Type: "function", Function: wireFunction{Name: c.Name, Arguments: c.Arguments}})
	}
	return w
}

func (w wireMessage) message() Message {
	m := Message{Role: w.Role, ToolCallID: w.ToolCallID}
	if w.Content != nil {
		m.Content = string(*w.Content)
	}
	if m.Content == "" {
		m.Content = w.Refusal
	}
	for _, c := range w.ToolCalls {
		m.ToolCalls = append(m.ToolCalls, ToolCall{ID: c.ID, Name: c.Function.Name, Arguments: c.Function.Arguments})
	}
	return m
}

func readCompletion(r Request, data []byte) (Response, error) {
	var w wireResponse
	if err := json.Unmarshal(data, &w); err != nil {
		return Response{}, &Error{Code: "MODEL_BAD_RESPONSE", Message: "The model provider's answer is not valid JSON.", Status: 200, Retryable: true, Cause: err}
	}
	if len(w.Choices) == 0 {
		return Response{}, &Error{Code: "MODEL_BAD_RESPONSE", Message: "The model provider's answer holds no choice.", Status: 200, Retryable: true}
	}
	out := Response{Message: w.Choices[0].Message.message(), FinishReason: w.Choices[0].FinishReason, Provider: OpenAIName, Model: w.Model}
	out.Message.Role = Assistant
	if out.Model == "" {
		out.Model = r.Model
	}
	if len(out.Message.ToolCalls) > 0 {
		out.FinishReason = FinishToolCalls // some services say "stop" here
	}
	if w.Usage == nil {
		out.Usage, out.UsageEstimated = estimateUsage(r.Messages, r.Tools, out.Message), true
	} else {
		out.Usage = w.Usage.usage()
	}
	return out, nil
}

// usage splits the wire's overlapping counts (prompt includes cached, completion
// includes reasoning) into disjoint buckets. Counts that contradict each other
// are read in the way that loses no token.
func (w wireUsage) usage() domain.Usage {
	var u domain.Usage
	if w.Prompt != nil {
		u.CacheRead, u.CacheWrite = max(0, w.Prompt.Cached), max(0, w.Prompt.CacheWrite)
	}
	if w.Completion != nil {
		u.Reasoning = max(0, w.Completion.Reasoning)
	}
	u.Input = max(0, w.PromptTokens-u.CacheRead-u.CacheWrite)
	u.Output = max(0, w.CompletionTokens-u.Reasoning)
	return u
}

func wireUsageOf(u domain.Usage) *wireUsage {
	return &wireUsage{
		PromptTokens: u.Prompt(), CompletionTokens: u.Completion(), TotalTokens: u.Prompt() + u.Completion(),
		Prompt:     &promptDetails{Cached: u.CacheRead, CacheWrite: u.CacheWrite},
		Completion: &completionDetail{Reasoning: u.Reasoning},
	}
}

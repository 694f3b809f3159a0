package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sparkops/control-plane/domain"
)

// Provider answers one request with one response. Its error is an *Error, or
// the context's error when the caller gave up.
type Provider interface {
	Complete(ctx context.Context, r Request) (Response, error)
}

// The roles of a message.
const (
	System    = "system"
	User      = "user"
	Assistant = "assistant"
	ToolRole  = "tool" // the result of a tool call
)

// Message is one entry of a conversation.
type Message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	ToolCalls  []ToolCall `json:"toolCalls,omitempty"`  // assistant
	ToolCallID string     `json:"toolCallId,omitempty"` // tool: the call this answers
}

// ToolCall is a tool call the model asks for. Arguments is what it wrote: JSON
// as a rule, but nothing guarantees that it parses.
type ToolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// Tool is a function the model may call. Parameters is a JSON Schema; absent,
// any object is allowed.
type Tool struct {
	Name        string          `json:"name"` // [A-Za-z0-9_-]{1,64}
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
}

// Request is one call of a model.
type Request struct {
	Model       string
	Messages    []Message
	Tools       []Tool
	Temperature *float64 // as the agent has it; see Temperature
	MaxTokens   int64    // of the answer; 0: the model's own limit

	// Schema asks for an answer that is JSON of this schema.
	Schema json.RawMessage

	// Key is the idempotency key of the call. One that ends in "/model-<n>"
	// says that this is the n-th model call of a step, which scripted faults
	// are counted by.
	Key string
}

// The finish reasons every provider's own are mapped to.
const (
	FinishStop      = "stop"
	FinishToolCalls = "tool_calls"
	FinishLength    = "length"         // cut off by a token limit
	FinishFilter    = "content_filter" // withheld by the provider
)

// Response is the answer to a request.
type Response struct {
	Message      Message      `json:"message"`
	FinishReason string       `json:"finishReason"`
	Usage        domain.Usage `json:"usage"`
	Provider     string       `json:"provider"` // the adapter: openai, simulated
	Model        string       `json:"model"`    // as the provider names it

	// UsageEstimated says that the provider reported no usage and Usage was
	// computed from the length of the texts.
	UsageEstimated bool `json:"usageEstimated,omitempty"`
}

// Error says why a call failed. Message is fit for users; it holds no
// credential.
type Error struct {
	Code       string // stable: MODEL_HTTP_<status>, MODEL_TIMEOUT, MODEL_UNREACHABLE, ...
	Message    string
	Status     int // HTTP status, 0 where there was no answer
	Retryable  bool
	RetryAfter time.Duration // how long the provider asks to wait, 0 where it does not say
	Cause      error         // logged, never shown
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// Temperature returns the value a provider gets for an agent's: agents have
// scales of 0 to 2 and of 0 to 10, so values above 2 are divided by 10.
func Temperature(agent float64) float64 {
	if agent > 2 {
		return agent / 10
	}
	return agent
}

// Models picks the provider of an agent.
type Models struct {
	OpenAI    Provider // nil: no outside provider is configured
	Simulated Provider
}

// For returns the provider of agents whose definition names this one. Without
// a configured outside provider, and for agents that ask for it, that is the
// simulated one.
func (m Models) For(provider string) Provider {
	if m.OpenAI == nil || provider == SimulatedName || provider == "mock" {
		return m.Simulated
	}
	return m.OpenAI
}

// EstimateTokens returns a token count for a text: one for four bytes, rounded
// up. It stands in where no provider counts.
func EstimateTokens(text string) int64 { return int64(len(text)+3) / 4 }

func estimateUsage(messages []Message, tools []Tool, answer Message) domain.Usage {
	var u domain.Usage
	for _, m := range messages {
		u.Input += 3 + messageTokens(m)
	}
	for _, t := range tools {
		u.Input += 3 + EstimateTokens(t.Name) + EstimateTokens(t.Description) + EstimateTokens(string(t.Parameters))
	}
	u.Output = max(1, messageTokens(answer))
	return u
}

func messageTokens(m Message) int64 {
	n := EstimateTokens(m.Content)
	for _, c := range m.ToolCalls {
		n += EstimateTokens(c.Name) + EstimateTokens(c.Arguments)
	}
	return n
}

package http

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/run"
)

// historyRoutes adds what happened in a run and why it waits.
func (s *Server) historyRoutes() {
	register(s, operation{
		id: "list-run-events", method: http.MethodGet, path: "/runs/{id}/events", tag: "history",
		summary: "What happened in a run, oldest first, straight from the event log", permission: "runs:read",
	}, s.listEvents)
	register(s, operation{
		id: "stream-run", method: http.MethodGet, path: "/runs/{id}/stream", tag: "history", stream: true,
		summary: "The events of a run as they happen (server-sent events)", permission: "runs:read",
		description: "Each event has its position as id, its type as event and its JSON as data. The stream ends after the event that ends the run.",
	}, s.streamRun)
	register(s, operation{
		id: "explain-run", method: http.MethodGet, path: "/runs/{id}/why", tag: "history",
		summary: "What a run waits for, in sentences", permission: "runs:read",
	}, s.whyRun)
}

// EventsInput selects a part of a history.
type EventsInput struct {
	ID
	After  uint64 `query:"after" maximum:"9223372036854775807" doc:"Position: only later events."`
	Limit  int    `query:"limit" minimum:"1" doc:"Events in an answer: 100 where absent, at most 1000."`
	Cursor string `query:"cursor" maxLength:"32" doc:"nextCursor of an earlier answer."`
}

// HistoryEvent is one event of a run.
type HistoryEvent struct {
	ID            string          `json:"id"`
	Position      uint64          `json:"position" doc:"In the whole log; grows with time."`
	Revision      int64           `json:"revision" doc:"In the run, from 0."`
	Type          string          `json:"type"`
	Time          time.Time       `json:"time"`
	Actor         EventActor      `json:"actor"`
	CommandID     string          `json:"commandId"`
	CorrelationID string          `json:"correlationId,omitempty"`
	CausationID   string          `json:"causationId,omitempty"`
	Data          json.RawMessage `json:"data"`
}

// EventActor is who caused an event.
type EventActor struct {
	Kind  domain.ActorKind `json:"kind"`
	ID    string           `json:"id"`
	KeyID string           `json:"keyId,omitempty"`
}

// History is a part of a run's events.
type History struct {
	Items      []HistoryEvent `json:"items"`
	NextCursor string         `json:"nextCursor,omitempty" doc:"Continues after the last event; absent at the end."`
}

// Bounds of one answer.
const (
	defaultEvents = 100
	maxEvents     = 1000
)

func (s *Server) listEvents(ctx context.Context, in *EventsInput) (*Plain[History], error) {
	limit := in.Limit
	if limit <= 0 {
		limit = defaultEvents
	}
	limit = min(limit, maxEvents)
	q := commands.HistoryQuery{After: in.After, Limit: limit + 1}
	if in.Cursor != "" {
		from, err := strconv.ParseInt(in.Cursor, 10, 63)
		if err != nil || from < 0 {
			return nil, domain.InvalidFields([]domain.Field{{Field: "cursor", Message: "is not a cursor of an earlier answer"}})
		}
		q.From = from
	}
	found, err := s.handler.History(ctx, in.ID.ID, q)
	if err != nil {
		return nil, err
	}
	page := History{Items: make([]HistoryEvent, 0, len(found))}
	if len(found) > limit {
		page.NextCursor = strconv.FormatInt(int64(found[limit].Revision), 10)
		found = found[:limit]
	}
	for _, e := range found {
		page.Items = append(page.Items, told(e))
	}
	return &Plain[History]{page}, nil
}

// told is an event as it is shown.
func told(e commands.Recorded) HistoryEvent {
	return HistoryEvent{
		ID: e.ID, Position: e.Position, Revision: int64(e.Revision), Type: e.Type, Time: e.Time,
		Actor:     EventActor{Kind: e.Metadata.Actor.Kind, ID: e.Metadata.Actor.ID, KeyID: e.Metadata.Actor.KeyID},
		CommandID: e.Metadata.CommandID, CorrelationID: e.Metadata.CorrelationID, CausationID: e.Metadata.CausationID,
		Data: shown(e),
	}
}

// shown is the data of an event without sealed credentials. They could not be
// opened by anybody else, but an answer is no place for them.
func shown(e commands.Recorded) json.RawMessage {
	queued, ok := e.Event.(run.Queued)
	if !ok || len(queued.Plan.Tools) == 0 {
		return e.Data
	}
	tools := make(map[string]run.ToolPlan, len(queued.Plan.Tools))
	for id, t := range queued.Plan.Tools {
		t.AuthSealed = ""
		tools[id] = t
	}
	queued.Plan.Tools = tools
	data, err := json.Marshal(queued)
	if err != nil {
		return json.RawMessage("{}")
	}
	return data
}

// Explanation says what a run waits for.
type Explanation struct {
	RunID   string       `json:"runId"`
	Status  run.Status   `json:"status"`
	Phase   string       `json:"phase"`
	Summary string       `json:"summary" doc:"The reasons in one text."`
	Reasons []run.Reason `json:"reasons" doc:"One for each open step, or the one that stands above them."`
}

func (s *Server) whyRun(ctx context.Context, in *ReadOne) (*Plain[Explanation], error) {
	state, reasons, err := s.handler.WhyRun(ctx, in.ID.ID)
	if err != nil {
		return nil, err
	}
	e := Explanation{RunID: state.ID(), Status: state.Status(), Phase: phase(state), Reasons: reasons}
	for i, reason := range reasons {
		if i > 0 {
			e.Summary += " "
		}
		e.Summary += reason.Message
	}
	return &Plain[Explanation]{e}, nil
}

package commands

import (
	"context"
	"encoding/json"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/tool"
)

// CreateTool makes a tool in a project and returns its id. Its credentials are
// sealed under the tool's own key.
func (h *Handler) CreateTool(ctx context.Context, projectID string, p tool.Patch) (string, Receipt, error) {
	if err := h.inProject(ctx, "tools:write", projectID); err != nil {
		return "", Receipt{}, err
	}
	if err := p.Check(tool.Default()); err != nil {
		return "", Receipt{}, err
	}
	id := NewIDFor(ctx, "tool")
	sealed, err := h.sealAuth(ctx, id, p.AuthConfig)
	if err != nil {
		return "", Receipt{}, err
	}
	receipt, err := Execute(ctx, h, tool.Create{ToolID: id, ProjectID: projectID, Patch: p, AuthSealed: domain.Or(sealed, "")})
	return id, receipt, err
}

// UpdateTool changes some fields, which makes a new version.
func (h *Handler) UpdateTool(ctx context.Context, id string, p tool.Patch) (Receipt, error) {
	update := tool.Update{ToolID: id, Patch: p}
	if p.AuthConfig.Set {
		if err := permit(ctx, h, update); err != nil {
			return Receipt{}, err
		}
		state, _, err := Load[tool.Tool](ctx, h, update.Stream())
		if err != nil {
			return Receipt{}, err
		}
		if err := p.Check(state.Spec); err != nil {
			return Receipt{}, err
		}
		if update.AuthSealed, err = h.sealAuth(ctx, id, p.AuthConfig); err != nil {
			return Receipt{}, err
		}
	}
	return Execute(ctx, h, update)
}

// DeleteTool takes a tool out of lists. Its credentials stay sealed: runs that
// pinned it may still need them.
func (h *Handler) DeleteTool(ctx context.Context, id string) (Receipt, error) {
	return Execute(ctx, h, tool.Delete{ToolID: id})
}

// sealAuth seals an object of credentials: nil where none was given, "" where
// it was cleared.
func (h *Handler) sealAuth(ctx context.Context, toolID string, auth domain.Optional[json.RawMessage]) (*string, error) {
	plain := domain.Canonical(auth.Value)
	sealed := ""
	if !auth.Set {
		return nil, nil
	}
	if auth.Null || plain == nil {
		return &sealed, nil
	}
	sealed, err := h.seal(ctx, tool.Subject(toolID), string(plain))
	return &sealed, err
}

// OpenToolAuth returns the credentials that a tool's events hold sealed; nil
// where there are none.
func (h *Handler) OpenToolAuth(ctx context.Context, toolID, sealed string) (json.RawMessage, error) {
	if sealed == "" {
		return nil, nil
	}
	text, err := h.open(ctx, tool.Subject(toolID), sealed)
	if err != nil || text == "" {
		return nil, err
	}
	if !json.Valid([]byte(text)) {
		return nil, domain.Fail(domain.Conflict, "ERASED", "The credentials of this tool were erased for good.")
	}
	return json.RawMessage(text), nil
}

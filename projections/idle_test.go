package projections_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/projections"
)

// The live build may have passed positions that hold nothing for it; a rebuild
// in a system where nothing happens has to get there too.
func TestRebuildWhenIdle(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	r := p.runner(t, projections.Runner{Views: p.views})
	start(t, r)
	p.addAgent(t, "p1", "a")
	last := p.append(t, claim.EmailCategory+"-x", time.Now(), claim.Taken{Holder: "h"})
	p.waitFor(t, last)
	require.NoError(t, r.Rebuild(t.Context(), "agents", nil))
	p.waitFor(t, last)
	require.Equal(t, 1, p.agents(t))
	require.NoError(t, r.Rebuild(t.Context(), "tools", nil), "with no event at all")
	lag, err := r.Lag(t.Context())
	require.NoError(t, err)
	for _, s := range lag {
		require.Equal(t, "live", s.State, s.Name)
		require.Zero(t, s.Events, s.Name)
	}
}

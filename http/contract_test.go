package http

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFirstSteps(t *testing.T) {
	t.Parallel()
	s := shared()
	m := s.owner.make(t, s.owner.project(t))
	require.Equal(t, m.agent, s.owner.get(t, "/agents/"+m.agent)["id"])
	run := s.owner.do(t, http.StatusOK, http.MethodGet, "/runs/"+m.run, nil)
	t.Log(run.Text, run.Header)
}

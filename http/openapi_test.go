package http

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The committed description is what the program serves. `make generate` writes
// it anew.
func TestOpenAPIIsCommitted(t *testing.T) {
	t.Parallel()
	generated, err := OpenAPI()
	require.NoError(t, err)
	if os.Getenv("SPARKOPS_UPDATE_OPENAPI") == "1" {
		require.NoError(t, os.WriteFile("openapi.yaml", generated, 0o644))
	}
	committed, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	require.Equal(t, string(committed), string(generated), "run `make generate`")
}

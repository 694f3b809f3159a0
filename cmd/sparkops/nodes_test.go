package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/readmodels/postgres/pgtest"
)

// TestTwoNodes runs two `serve` processes on one event store and one Postgres,
// kills each in turn under load, and requires that work goes on and nothing is
// done twice.
func TestTwoNodes(t *testing.T) {
	world := newEffects(t)
	storePort := unusedPort(t)
	start(t, []string{"SPARKOPS_DATA_DIR=" + dataDir(t), "EVENTSTORE_PORT=" + strconv.Itoa(storePort)}, "eventstore")
	shared := []string{
		"EVENTSTORE_URL=esdb://127.0.0.1:" + strconv.Itoa(storePort) + "?tls=false",
		"DATABASE_URL=" + pgtest.Database(t), "HOST=127.0.0.1", "EGRESS_ALLOW=127.0.0.0/8",
		"JWT_SECRET=Wq3v8PzLr0sYd5tNf2hXc7kBm1jGu9aE", "API_KEY_SECRET=Zr4w9QaMs1tZe6uOg3iYd8lCn2kHv0bF",
		"SECRETS_KEY=As5x0RbNt2uAf7vPh4jZe9mDo3lIw1cG", "RATE_LIMIT_PER_MINUTE=1000000", "RATE_LIMIT_BURST=100000",
	}
	node := func() *process {
		port := unusedPort(t)
		p := start(t, append([]string{"PORT=" + strconv.Itoa(port)}, shared...), "serve")
		p.url = "http://127.0.0.1:" + strconv.Itoa(port)
		return p
	}
	a, b := node(), node()
	a.ready()
	b.ready()
	first := signIn(t, a.url, "nodes@example.com")
	workflow, agent := effectWorkflow(t, first, world.URL)

	var all []string
	kill := func(victim, survivor *process, prefix string) {
		onVictim, onSurvivor := signIn(t, victim.url, "nodes@example.com"), signIn(t, survivor.url, "nodes@example.com")
		var lost, kept load
		lost.run(onVictim, workflow, agent, prefix+"-v", 2)
		kept.run(onSurvivor, workflow, agent, prefix+"-s", 2)
		timer := time.NewTimer(1500 * time.Millisecond)
		<-timer.C // the load runs on both nodes for a while
		victim.kill()
		killed := time.Now()
		lost.stop.Store(true)
		lost.wait.Wait()
		kept.mu.Lock()
		acked := len(kept.acked)
		kept.mu.Unlock()
		require.Eventually(t, func() bool {
			kept.mu.Lock()
			defer kept.mu.Unlock()
			return len(kept.acked) > acked
		}, patience, 20*time.Millisecond, "the surviving node goes on")
		kept.stop.Store(true)
		kept.wait.Wait()
		last := onSurvivor.do(http.StatusCreated, http.MethodPost, "/runs", object{
			"workflow_id": workflow, "agent_id": agent, "env": "dev", "trigger": "manual", "input_data": object{"label": prefix + "-after"},
		})["id"].(string)
		onSurvivor.awaitRun(last)
		t.Logf("a new run ended %s after the kill", time.Since(killed).Round(time.Millisecond))
		all = append(append(append(all, lost.acked...), kept.acked...), last)
	}
	kill(a, b, "x")
	c := node()
	c.ready()
	kill(b, c, "y")

	reader := signIn(t, c.url, "nodes@example.com")
	for _, id := range all {
		run := reader.awaitRun(id)
		require.Equal(t, "succeeded", run["status"], "run %s: %v", id, run)
		checkRun(t, reader, run, world)
	}
	t.Logf("%d runs on two nodes, two kills", len(all))
	c.stop()
}

func TestServeRefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		environment []string
		want        string
	}{
		"no secrets":     {[]string{"EVENTSTORE_URL=esdb://127.0.0.1:1?tls=false", "DATABASE_URL=postgres://127.0.0.1:1/x"}, "JWT_SECRET is not set"},
		"short secret":   {[]string{"EVENTSTORE_URL=esdb://127.0.0.1:1?tls=false", "DATABASE_URL=postgres://127.0.0.1:1/x", "JWT_SECRET=short"}, "JWT_SECRET is shorter than 32"},
		"example secret": {[]string{"EVENTSTORE_URL=esdb://127.0.0.1:1?tls=false", "DATABASE_URL=postgres://127.0.0.1:1/x", "JWT_SECRET=your-secret-your-secret-your-secret"}, "JWT_SECRET looks like an example"},
		"no store":       {[]string{"DATABASE_URL=postgres://127.0.0.1:1/x"}, "EVENTSTORE_URL is not set"},
		"no database":    {[]string{"EVENTSTORE_URL=esdb://127.0.0.1:1?tls=false"}, "DATABASE_URL is not set"},
		"bad port":       {[]string{"PORT=70000"}, "70000 is no port"},
		"bad number":     {[]string{"PORT=many"}, "PORT"},
		"bad origin":     {[]string{"CORS_ORIGINS=*"}, "CORS_ORIGINS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, tc.environment, "serve")
			<-p.done
			require.Error(t, p.err)
			require.Contains(t, p.output.String(), tc.want)
		})
	}
}

func TestBusyPortSetByHand(t *testing.T) {
	t.Parallel()
	busy := unusedListener(t)
	p := start(t, []string{"PORT=" + fmt.Sprint(busy), "SPARKOPS_DATA_DIR=" + dataDir(t)}, "dev")
	<-p.done
	require.Error(t, p.err)
	require.Contains(t, p.output.String(), fmt.Sprintf("port %d is in use", busy))
}

func TestEnvExampleIsFresh(t *testing.T) {
	t.Parallel()
	committed, err := os.ReadFile("../../.env.example")
	require.NoError(t, err)
	require.Equal(t, envExample(), string(committed), "run make generate")
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), configTable(), "replace the table with that of `sparkops docs config`")
}

package eventstore

import (
	"io"
	"log"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/domain"
)

func TestURL(t *testing.T) {
	log.SetOutput(io.Discard) // the library's parser warns there
	for url, want := range map[string]struct {
		address  string
		seeds    int
		discover bool
		tls      bool
		attempts int
		gossip   int
		call     time.Duration
	}{
		"esdb://localhost:2113?tls=false":                       {address: "localhost:2113", attempts: 10, gossip: 5, call: 5 * time.Second},
		"kurrentdb://localhost?tls=false":                       {address: "localhost:2113", attempts: 10, gossip: 5, call: 5 * time.Second},
		"kdb://localhost:1":                                     {address: "localhost:1", tls: true, attempts: 10, gossip: 5, call: 5 * time.Second},
		"kurrentdb+discover://cluster.example:2113":             {address: "cluster.example:2113", discover: true, tls: true, attempts: 10, gossip: 5, call: 5 * time.Second},
		"esdb://a:1,b:2,c:3?maxDiscoverAttempts=4":              {seeds: 3, tls: true, attempts: 4, gossip: 5, call: 5 * time.Second},
		"esdb://u:p@a:1?gossipTimeout=3000&defaultDeadline=700": {address: "a:1", tls: true, attempts: 10, gossip: 3, call: 700 * time.Millisecond},
		"ESDB://a:1?gossipTimeout=7&maxDiscoverAttempts=0":      {address: "a:1", tls: true, attempts: 1, gossip: 7, call: 5 * time.Second},
		"esdb://a:1?gossipTimeout=1500&keepAliveInterval=-1":    {address: "a:1", tls: true, attempts: 10, gossip: 2, call: 5 * time.Second},
	} {
		var call time.Duration
		d, err := parseURL(url, &call)
		require.NoError(t, err, url)
		require.Equal(t, want.address, d.config.Address, url)
		require.Len(t, d.config.GossipSeeds, want.seeds, url)
		require.Equal(t, want.discover, d.config.DnsDiscover, url)
		require.Equal(t, want.tls, !d.config.DisableTLS, url)
		require.Equal(t, want.attempts, d.attempts, url)
		require.Equal(t, want.gossip, d.config.GossipTimeout, url)
		require.Equal(t, want.call, call, url)
		require.Equal(t, 1, d.config.MaxDiscoverAttempts, url)
		require.Equal(t, 10*time.Second, d.config.KeepAliveInterval, "dead connections are always noticed")
	}
	call := 3 * time.Second
	_, err := parseURL("esdb://a:1?defaultDeadline=700", &call)
	require.NoError(t, err)
	require.Equal(t, 3*time.Second, call, "what the program asks for comes before the URL")
	for _, url := range []string{"", "localhost:2113", "http://localhost:2113", "esdb://", "esdb://:secret@host:1", "esdb://u:secret@host:x"} {
		_, err := parseURL(url, &call)
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	_, err := Open(Config{URL: "esdb://localhost:1"}, nil)
	require.Error(t, err)
	_, err = Open(Config{URL: "nothing"}, domain.NewRegistry())
	require.Error(t, err)
	registry := prometheus.NewRegistry()
	config := Config{URL: "esdb://localhost:1?tls=false", Registerer: registry}
	events := domain.NewRegistry()
	s, err := Open(config, events)
	require.NoError(t, err, "opening does not connect")
	require.Same(t, events, s.Registry())
	_, err = Open(config, events)
	require.Error(t, err, "metrics are registered once")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	s, err = Open(config, events)
	require.NoError(t, err, "a closed store leaves no metrics behind")
	require.NoError(t, s.Close())
}

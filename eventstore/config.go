package eventstore

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says where the event store is. URL is required:
// "esdb://user:password@host:2113?tls=true", several hosts separated by
// commas, or "esdb+discover://"; the newer scheme "kurrentdb" means the same.
type Config struct {
	URL         string
	CallTimeout time.Duration         // of one attempt of a call; default: the URL's defaultDeadline, else 5 s
	Logger      *slog.Logger          // default slog.Default()
	Registerer  prometheus.Registerer // nil: metrics are kept and not collected
}

const (
	defaultCallTimeout = 5 * time.Second
	// maxGossipSeconds is the longest plausible gossipTimeout. The client
	// library counts it in seconds, its documentation and every other client in
	// milliseconds; what is above is read as milliseconds.
	maxGossipSeconds = 60
	// maxKeepAlive bounds the interval at which dead connections are noticed.
	maxKeepAlive = 10 * time.Second
)

// dialing is what the client library needs to know, and what we took over
// from it.
type dialing struct {
	config   esdb.Configuration
	attempts int           // of one round of discovery
	interval time.Duration // between them
}

func parseURL(url string, callTimeout *time.Duration) (dialing, error) {
	scheme, rest, found := strings.Cut(strings.TrimSpace(url), "://")
	if !found {
		return dialing{}, errors.New("the URL of the event store has no scheme, expected esdb://host:port")
	}
	switch strings.ToLower(scheme) {
	case "esdb", "kurrentdb", "kdb":
		scheme = "esdb"
	case "esdb+discover", "kurrentdb+discover", "kdb+discover":
		scheme = "esdb+discover"
	default:
		return dialing{}, fmt.Errorf("the URL of the event store has the scheme %q, expected esdb, esdb+discover or kurrentdb", scheme)
	}
	parsed, err := esdb.ParseConnectionString(scheme + "://" + rest)
	if err == nil {
		err = parsed.Validate()
	}
	if err != nil {
		// The text may quote the URL, which may hold a password.
		return dialing{}, errors.New("the URL of the event store cannot be read")
	}
	return takeOver(parsed, callTimeout), nil
}

// takeOver fixes the units of the library's settings and moves discovery and
// deadlines into our hands: a client that is left to give up by itself is dead
// for good and may leave its callers hanging.
func takeOver(c *esdb.Configuration, callTimeout *time.Duration) dialing {
	d := dialing{config: *c, attempts: max(1, c.MaxDiscoverAttempts), interval: time.Duration(max(0, c.DiscoveryInterval)) * time.Millisecond}
	d.config.MaxDiscoverAttempts = 1
	d.config.DiscoveryInterval = 0
	if d.config.GossipTimeout > maxGossipSeconds {
		d.config.GossipTimeout = (d.config.GossipTimeout + 999) / 1000
	}
	d.config.GossipTimeout = min(max(1, d.config.GossipTimeout), maxGossipSeconds)
	if *callTimeout <= 0 && c.DefaultDeadline != nil {
		*callTimeout = *c.DefaultDeadline
	}
	if *callTimeout <= 0 {
		*callTimeout = defaultCallTimeout
	}
	// Our own deadline comes first; this one only must not be shorter.
	deadline := 2 * *callTimeout
	d.config.DefaultDeadline = &deadline
	if d.config.KeepAliveInterval < 0 || d.config.KeepAliveInterval > maxKeepAlive {
		d.config.KeepAliveInterval = maxKeepAlive
	}
	d.config.KeepAliveTimeout = min(d.config.KeepAliveTimeout, maxKeepAlive)
	if d.config.KeepAliveTimeout <= 0 {
		d.config.KeepAliveTimeout = maxKeepAlive
	}
	return d
}

package commands

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sparkops/control-plane/commands/expr"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/vault"
)

// Handler carries out commands. It is made by New from a literal of its
// exported fields, which nobody changes afterwards; it is safe for concurrent
// use and owns none of what it points to.
type Handler struct {
	Store *eventstore.Store
	Views *readmodels.Views
	Vault *vault.Vault
	Clock func() time.Time // nil: the system clock
	Expr  *expr.Engine

	Secrets          Secrets
	PersonalProjects bool // a newly registered user gets a project of its own

	// Stored is told of every append of this handler, once it is durable, for
	// short cuts within the process; it must return at once. nil: nobody.
	Stored func(stream string, events []domain.Event)

	Logger     *slog.Logger          // nil: slog.Default()
	Registerer prometheus.Registerer // nil: no metrics

	cache   *lru.Cache[string, any] // stream -> *entry[S]
	desk    *desk
	metrics metrics
	keys    keys
	decoy   *decoy
	hashing chan struct{} // bounds how many passwords are hashed at a time
}

// Secrets are the keys of credentials and how long tokens live.
type Secrets struct {
	JWT         []byte // signs access tokens
	JWTPrevious []byte // still verifies them during a rotation; may be empty
	APIKey      []byte // pepper of API key digests
	Master      []byte // root of derived keys, such as the one that hashes e-mails

	AccessTTL  time.Duration // 0: 15 minutes
	RefreshTTL time.Duration // 0: 7 days
}

// cachedStreams bounds the states Execute keeps in memory.
const cachedStreams = 8192

// New checks the fields of h, fills in defaults and returns a working handler.
func New(h Handler) (*Handler, error) {
	if h.Store == nil {
		return nil, errors.New("commands: a handler needs an event store")
	}
	if h.Clock == nil {
		h.Clock = time.Now
	}
	if h.Logger == nil {
		h.Logger = slog.Default()
	}
	if h.Secrets.AccessTTL <= 0 {
		h.Secrets.AccessTTL = 15 * time.Minute
	}
	if h.Secrets.RefreshTTL <= 0 {
		h.Secrets.RefreshTTL = 7 * 24 * time.Hour
	}
	cache, err := lru.New[string, any](cachedStreams)
	if err != nil {
		return nil, fmt.Errorf("make state cache: %w", err)
	}
	h.cache, h.desk = cache, newDesk()
	h.keys = deriveKeys(h.Secrets)
	h.decoy = &decoy{}
	h.hashing = make(chan struct{}, 2)
	if h.metrics, err = newMetrics(h.Registerer); err != nil {
		return nil, err
	}
	return &h, nil
}

// Now returns the time decisions are made with: UTC, in the microseconds that
// read models keep.
func (h *Handler) Now() time.Time { return h.Clock().UTC().Truncate(time.Microsecond) }

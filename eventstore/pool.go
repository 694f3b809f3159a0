package eventstore

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// maxStreams is how many long calls share one connection. Servers take 100
// calls per connection, and the library waits silently for its turn beyond.
const maxStreams = 80

// linkPool spreads long reads and subscriptions over as many connections as
// they need.
type linkPool struct {
	dialing  dialing
	logger   *slog.Logger
	patience time.Duration // with the last calls of a connection nobody needs

	mu     sync.Mutex
	closed bool
	links  []*pooledLink
}

type pooledLink struct {
	*link
	streams int // under linkPool.mu
}

// take returns a link with room for one more stream; the caller gives it back.
func (p *linkPool) take() (*pooledLink, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	for _, l := range p.links {
		if l.streams < maxStreams {
			l.streams++
			return l, nil
		}
	}
	// A replaced connection is closed when its last stream has ended: they
	// notice a dead server by themselves.
	l := &pooledLink{link: newLink(p.dialing, p.logger, 0), streams: 1}
	p.links = append(p.links, l)
	return l, nil
}

func (p *linkPool) give(l *pooledLink) {
	p.mu.Lock()
	l.streams--
	unused := l.streams == 0 && len(p.links) > 1 && p.links[0] != l && !p.closed
	if unused {
		p.links = slices.DeleteFunc(p.links, func(other *pooledLink) bool { return other == l })
	}
	p.mu.Unlock()
	if unused {
		l.close(p.patience)
	}
}

// use runs fn with a link of the pool.
func (p *linkPool) use(ctx context.Context, fn func(ctx context.Context, l *link) error) error {
	l, err := p.take()
	if err != nil {
		return &notSentError{err}
	}
	defer p.give(l)
	return fn(ctx, l.link)
}

func (p *linkPool) close(patience time.Duration) {
	p.mu.Lock()
	p.closed = true
	links := slices.Clone(p.links)
	p.mu.Unlock()
	for _, l := range links {
		l.close(patience)
	}
}

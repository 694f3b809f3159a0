package vault

import (
	"crypto/cipher"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cache holds unwrapped keys, the least recently used one goes first. A key is
// used for at most ttl after it was read from the store; using it does not
// prolong that.
type cache struct {
	ttl time.Duration
	now func() time.Time

	mu       sync.Mutex
	keys     *simplelru.LRU[string, cached]
	erasures uint64
}

type cached struct {
	key   cipher.AEAD
	until time.Time
}

// readMark is when a key was about to be read from the store.
type readMark struct {
	at       time.Time
	erasures uint64
}

func newCache(size int, ttl time.Duration) *cache {
	keys, err := simplelru.NewLRU[string, cached](size, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &cache{ttl: ttl, now: time.Now, keys: keys}
}

func (c *cache) get(subject string) cipher.AEAD {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry, ok := c.keys.Get(subject)
	if !ok {
		return nil
	}
	if !c.now().Before(entry.until) {
		c.keys.Remove(subject)
		return nil
	}
	return entry.key
}

// mark is taken before a key is read from the store and given to put.
func (c *cache) mark() readMark {
	c.mu.Lock()
	defer c.mu.Unlock()
	return readMark{at: c.now(), erasures: c.erasures}
}

// put keeps a key, unless something was erased since it was read: it may have
// been this one.
func (c *cache) put(subject string, key cipher.AEAD, m readMark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.erasures == c.erasures {
		c.keys.Add(subject, cached{key: key, until: m.at.Add(c.ttl)})
	}
}

func (c *cache) erase(subject string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erasures++
	c.keys.Remove(subject)
}

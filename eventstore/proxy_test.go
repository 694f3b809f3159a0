package eventstore_test

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy is the network between a store and its node, with its faults. It
// listens on one address for its whole life.
type proxy struct {
	url    string
	target string

	mu       sync.Mutex
	mode     mode
	listener net.Listener
	conns    map[net.Conn]bool
	accepted int
	swallow  chan struct{} // closed at the first answer that was lost
	work     sync.WaitGroup
}

type mode int

const (
	pass    mode = iota
	refuse       // new connections are closed at once
	deaf         // bytes arrive, answers are lost
	silence      // nothing goes either way
)

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{
		url: "esdb://" + listener.Addr().String() + "?tls=false&maxDiscoverAttempts=3&discoveryInterval=20&gossipTimeout=1", target: target,
		listener: listener, conns: map[net.Conn]bool{}, swallow: make(chan struct{}),
	}
	p.work.Add(1)
	go p.accept()
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.work.Wait()
	})
	return p
}

// set changes the mode, for open connections too.
func (p *proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	p.swallow = make(chan struct{})
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
	}
}

// connections counts those that were accepted.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// swallowed is closed when an answer was lost since the mode was set.
func (p *proxy) swallowed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallow
}

func (p *proxy) accept() {
	defer p.work.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.accepted++
		refused := p.mode == refuse
		p.mu.Unlock()
		if refused {
			client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.work.Add(2)
		go p.pump(client, server, false)
		go p.pump(server, client, true)
	}
}

func (p *proxy) pump(from, to net.Conn, answers bool) {
	defer p.work.Done()
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			p.mu.Lock()
			lost := p.mode == silence || p.mode == deaf && answers
			if lost && answers {
				select {
				case <-p.swallow:
				default:
					close(p.swallow)
				}
			}
			p.mu.Unlock()
			if !lost {
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

package embedded

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// protocolSplitter shares one port between gRPC and HTTP/1.1. It looks at the first bytes of each connection: an
// HTTP/2 connection with prior knowledge begins with "PRI ", which no HTTP/1.1 request does.
type protocolSplitter struct {
	listener net.Listener
	grpc     *splitListener
	http     *splitListener
	closing  chan struct{}
	once     sync.Once
	waiting  sync.WaitGroup
}

const (
	http2Preface = "PRI "

	// prefaceTimeout bounds how long a connection may say nothing at all.
	prefaceTimeout = 20 * time.Second
)

func newProtocolSplitter(listener net.Listener) *protocolSplitter {
	s := &protocolSplitter{listener: listener, closing: make(chan struct{})}
	s.grpc = &splitListener{splitter: s, connections: make(chan net.Conn)}
	s.http = &splitListener{splitter: s, connections: make(chan net.Conn)}
	return s
}

// serve accepts connections until the splitter is closed.
func (s *protocolSplitter) serve() error {
	defer s.waiting.Wait()
	delay := time.Duration(0)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			select {
			case <-s.closing:
				return nil
			default:
			}
			if temporary, ok := err.(interface{ Temporary() bool }); ok && temporary.Temporary() {
				// Typically no file descriptors are left.
				delay = min(max(2*delay, 5*time.Millisecond), time.Second)
				select {
				case <-time.After(delay):
				case <-s.closing:
				}
				continue
			}
			return err
		}
		delay = 0
		s.waiting.Add(1)
		go s.dispatch(conn)
	}
}

func (s *protocolSplitter) dispatch(conn net.Conn) {
	defer s.waiting.Done()
	decided := make(chan struct{})
	defer close(decided)
	go func() {
		select {
		case <-s.closing:
			_ = conn.SetReadDeadline(time.Unix(1, 0)) // ends the wait for the preface
		case <-decided:
		}
	}()
	_ = conn.SetReadDeadline(time.Now().Add(prefaceTimeout))
	sniffed := &sniffedConn{Conn: conn}
	if _, err := io.ReadFull(conn, sniffed.buffer[:]); err != nil {
		_ = conn.Close()
		return
	}
	target := s.http
	if string(sniffed.buffer[:]) == http2Preface {
		target = s.grpc
	}
	_ = conn.SetReadDeadline(time.Time{})
	select {
	case target.connections <- sniffed:
	case <-s.closing:
		_ = conn.Close()
	}
}

func (s *protocolSplitter) close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		err = s.listener.Close()
	})
	return err
}

// splitListener hands out the connections of one protocol.
type splitListener struct {
	splitter    *protocolSplitter
	connections chan net.Conn
}

var errListenerClosed = errors.New("listener is closed")

// Accept implements net.Listener.
func (l *splitListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.connections:
		return conn, nil
	case <-l.splitter.closing:
		return nil, errListenerClosed
	}
}

// Close implements net.Listener; it closes the port for both protocols.
func (l *splitListener) Close() error { return l.splitter.close() }

// Addr implements net.Listener.
func (l *splitListener) Addr() net.Addr { return l.splitter.listener.Addr() }

// sniffedConn gives back the bytes that were looked at.
type sniffedConn struct {
	net.Conn
	buffer [len(http2Preface)]byte
	read   int
}

// Read implements net.Conn.
func (c *sniffedConn) Read(b []byte) (int, error) {
	if c.read < len(c.buffer) {
		n := copy(b, c.buffer[c.read:])
		c.read += n
		return n, nil
	}
	return c.Conn.Read(b)
}

package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// listen opens a TCP port. A port set by hand is taken or refused with one
// clear line; a default one that is busy moves on to the next free of the
// following hundred, and moved says so.
func listen(host string, port int, byHand bool, setting string) (l net.Listener, moved bool, err error) {
	last := port
	if !byHand && port != 0 {
		last = min(port+100, 65535)
	}
	for p := port; p <= last; p++ {
		l, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(p)))
		if err == nil {
			return l, p != port, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) && byHand {
		return nil, false, fmt.Errorf("port %d is in use: stop what listens there, or set %s to another port", port, setting)
	}
	return nil, false, fmt.Errorf("listen on %s port %d: %w", host, port, err)
}

// freePort finds a free port in the same way for a server that opens it
// itself.
func freePort(host string, port int, byHand bool, setting string) (addr string, moved bool, err error) {
	l, moved, err := listen(host, port, byHand, setting)
	if err != nil {
		return "", false, err
	}
	addr = l.Addr().String()
	return addr, moved, l.Close()
}

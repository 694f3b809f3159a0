// Package egress is the one way out of the process for addresses that users
// choose: tools today, webhooks and MCP later. Every connection is checked at
// the moment it is made, on the address it is really made to, so neither a
// name that resolves to an inner address nor one that changes its mind after a
// check gets through.
//
// Refused are all addresses that are not public: private, loopback,
// link-local (and with it the metadata services of clouds), carrier-grade NAT,
// multicast, unspecified, documentation and reserved ranges, and IPv6 forms
// that embed any of them. An operator allows single ranges or hosts with
// EGRESS_ALLOW.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// ErrRefused is wrapped by the error of every connection the guard refuses.
var ErrRefused = errors.New("the address is not allowed")

// Allow is what an operator permits although it is not public. The zero value
// permits nothing.
type Allow struct {
	prefixes []netip.Prefix
	hosts    map[string]bool
}

// ParseAllow reads a comma-separated list of CIDR ranges, addresses and host
// names. A host name permits whatever it resolves to.
func ParseAllow(list string) (Allow, error) {
	a := Allow{hosts: map[string]bool{}}
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if entry == "" {
			continue
		}
		if p, err := netip.ParsePrefix(entry); err == nil {
			a.prefixes = append(a.prefixes, p.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(entry); err == nil {
			ip = ip.Unmap()
			a.prefixes = append(a.prefixes, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		if strings.ContainsAny(entry, "/:@ ") {
			return Allow{}, fmt.Errorf("%q is neither a CIDR range nor an address nor a host name", entry)
		}
		a.hosts[strings.TrimSuffix(entry, ".")] = true
	}
	return a, nil
}

func (a Allow) host(name string) bool {
	return a.hosts[strings.TrimSuffix(strings.ToLower(name), ".")]
}

// Permits reports whether a connection to the address is permitted: it is
// public, or listed.
func (a Allow) Permits(ip netip.Addr) bool {
	ip = ip.Unmap()
	for _, p := range a.prefixes {
		if p.Contains(ip.WithZone("")) {
			return true
		}
	}
	return Public(ip)
}

// Guard makes HTTP clients whose connections are checked.
type Guard struct {
	Allow Allow

	// Lookup resolves names; nil means the system's resolver. Whatever it
	// answers is checked.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// DialTimeout bounds one connection attempt, 10 s where 0.
	DialTimeout time.Duration
}

// Client returns a client that goes through the guard: no proxy from the
// environment, no redirects (the answer is returned as it is), bounded
// headers. The caller bounds the body. Clients of one guard should be shared.
func (g *Guard) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            g.Dial,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        60 * time.Second,
			TLSHandshakeTimeout:    10 * time.Second,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// CheckURL reports why a URL can never be called: another scheme than http and
// https, credentials in it, no host, or a literal address that is refused.
func (g *Guard) CheckURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("only http and https URLs can be called")
	case u.User != nil:
		return errors.New("a URL must not hold credentials")
	case u.Hostname() == "":
		return errors.New("the URL has no host")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !g.Allow.host(u.Hostname()) && !g.Allow.Permits(ip) {
		return fmt.Errorf("%s: %w", ip, ErrRefused)
	}
	return nil
}

// Dial connects to the first permitted address of a host that answers.
func (g *Guard) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	addrs, err := g.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	free := g.Allow.host(host)
	dialer := &net.Dialer{
		Timeout: g.DialTimeout,
		// The last word: the address the socket is about to connect to.
		Control: func(_, connecting string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(connecting)
			if err != nil {
				return fmt.Errorf("%q: %w", connecting, ErrRefused)
			}
			if !free && !g.Allow.Permits(ap.Addr()) {
				return fmt.Errorf("%s: %w", ap.Addr(), ErrRefused)
			}
			return nil
		},
	}
	if dialer.Timeout == 0 {
		dialer.Timeout = 10 * time.Second
	}
	var failures []error
	for _, ip := range addrs {
		conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

func (g *Guard) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	lookup := g.Lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolve host: %w", err)
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

package egress

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPublic(t *testing.T) {
	t.Parallel()
	for _, ip := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.7",
		"203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.88.99.1",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:0:10.0.0.1",
		"64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "fc00::1", "fd00:ec2::254", "fe80::1",
		"fe80::1%eth0", "2606:4700::1111%eth0", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
	} {
		require.False(t, Public(netip.MustParseAddr(ip)), ip)
	}
	require.False(t, Public(netip.Addr{}))
	for _, ip := range []string{"1.1.1.1", "8.8.8.8", "172.32.0.1", "172.15.0.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111", "::ffff:8.8.8.8"} {
		require.True(t, Public(netip.MustParseAddr(ip)), ip)
	}
}

func TestParseAllow(t *testing.T) {
	t.Parallel()
	a, err := ParseAllow(" 10.1.0.0/16, ::1,127.0.0.1 ,Internal.Example.com., ")
	require.NoError(t, err)
	for ip, want := range map[string]bool{"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": true, "::ffff:127.0.0.1": true, "127.0.0.2": false, "::1": true, "8.8.8.8": true} {
		require.Equal(t, want, a.Permits(netip.MustParseAddr(ip)), ip)
	}
	require.True(t, a.host("internal.example.COM"))
	require.False(t, a.host("evil.internal.example.com"))
	for _, bad := range []string{"http://x", "host:80", "10.0.0.0/33", "a b"} {
		_, err := ParseAllow(bad)
		require.Error(t, err, bad)
	}
}

// canary is a server on loopback that counts what reaches it.
func canary(t *testing.T, h http.HandlerFunc) (port string, hits *atomic.Int64) {
	t.Helper()
	hits = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	require.NoError(t, err)
	return port, hits
}

func get(t *testing.T, c *http.Client, address string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

func forged(ips ...string) func(context.Context, string) ([]netip.Addr, error) {
	return func(context.Context, string) ([]netip.Addr, error) {
		var out []netip.Addr
		for _, ip := range ips {
			out = append(out, netip.MustParseAddr(ip))
		}
		return out, nil
	}
}

func TestInnerAddressesAreNeverReached(t *testing.T) {
	t.Parallel()
	port, hits := canary(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "169.254.169.254"} {
		_, err := get(t, (&Guard{}).Client(), "http://"+host+":"+port+"/")
		require.ErrorIs(t, err, ErrRefused, host)
	}
	for _, answer := range [][]string{{"127.0.0.1"}, {"::ffff:127.0.0.1"}, {"169.254.169.254"}, {"10.0.0.1", "127.0.0.1"}, {"::1"}, {"0.0.0.0"}, {"fd00:ec2::254"}} {
		g := &Guard{Lookup: forged(answer...)}
		_, err := get(t, g.Client(), "http://public.example.com:"+port+"/")
		require.ErrorIs(t, err, ErrRefused, answer)
	}
	require.Zero(t, hits.Load())
}

// A name that resolved to a public address a moment ago is checked again when
// it is connected to.
func TestRebindingIsRefused(t *testing.T) {
	t.Parallel()
	port, hits := canary(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	answers := []string{"93.184.216.34", "127.0.0.1"}
	asked := 0
	g := &Guard{Lookup: func(context.Context, string) ([]netip.Addr, error) {
		ip := answers[min(asked, 1)]
		asked++
		return []netip.Addr{netip.MustParseAddr(ip)}, nil
	}}
	first, err := g.lookup(t.Context(), "rebind.example.com")
	require.NoError(t, err)
	require.True(t, g.Allow.Permits(first[0]))
	_, err = get(t, g.Client(), "http://rebind.example.com:"+port+"/")
	require.ErrorIs(t, err, ErrRefused)
	require.Zero(t, hits.Load())
}

func TestAllowedAddressesAreReached(t *testing.T) {
	t.Parallel()
	port, hits := canary(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	byRange, err := ParseAllow("127.0.0.0/8")
	require.NoError(t, err)
	byHost, err := ParseAllow("inner.example.com")
	require.NoError(t, err)

	status, err := get(t, (&Guard{Allow: byRange}).Client(), "http://127.0.0.1:"+port+"/")
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, status)
	status, err = get(t, (&Guard{Allow: byRange, Lookup: forged("10.0.0.1", "127.0.0.1")}).Client(), "http://mixed.example.com:"+port+"/")
	require.NoError(t, err, "the permitted one of two addresses")
	require.Equal(t, http.StatusTeapot, status)
	status, err = get(t, (&Guard{Allow: byHost, Lookup: forged("127.0.0.1")}).Client(), "http://inner.example.com:"+port+"/")
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, status)
	_, err = get(t, (&Guard{Allow: byHost, Lookup: forged("127.0.0.1")}).Client(), "http://other.example.com:"+port+"/")
	require.ErrorIs(t, err, ErrRefused)
	require.Equal(t, int64(3), hits.Load())
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	secret, secretHits := canary(t, func(http.ResponseWriter, *http.Request) {})
	port, _ := canary(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:"+secret+"/", http.StatusFound)
	})
	allow, err := ParseAllow("127.0.0.1")
	require.NoError(t, err)
	status, err := get(t, (&Guard{Allow: allow}).Client(), "http://127.0.0.1:"+port+"/")
	require.NoError(t, err)
	require.Equal(t, http.StatusFound, status)
	require.Zero(t, secretHits.Load())
}

func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	port, hits := canary(t, func(http.ResponseWriter, *http.Request) {})
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:"+port)
	t.Setenv("http_proxy", "http://127.0.0.1:"+port)
	allow, err := ParseAllow("127.0.0.1")
	require.NoError(t, err)
	_, err = get(t, (&Guard{Allow: allow, Lookup: forged("10.0.0.1")}).Client(), "http://public.example.com/")
	require.ErrorIs(t, err, ErrRefused)
	require.Zero(t, hits.Load())
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	g := &Guard{}
	for address, ok := range map[string]bool{
		"https://example.com/x": true, "http://8.8.8.8": true, "http://example.com:8080": true,
		"ftp://example.com": false, "file:///etc/passwd": false, "http://user:pass@example.com": false, "http://": false,
		"http://127.0.0.1": false, "http://[::ffff:169.254.169.254]/latest": false, "//example.com": false,
	} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		require.Equal(t, ok, g.CheckURL(u) == nil, address)
	}
}

package embedded_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/persistent"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// TestSection2Features: the node names exactly what it has, and a version that clients can parse.
func TestSection2Features(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	w := dial(t, node)
	answer, err := serverfeatures.NewServerFeaturesClient(w.conn).GetSupportedMethods(testContext(t), &shared.Empty{})
	require.NoError(t, err)
	require.Equal(t, "24.10.4", answer.GetEventStoreServerVersion())
	var methods []string
	for _, method := range answer.GetMethods() {
		methods = append(methods, method.GetServiceName()+"/"+method.GetMethodName())
		require.Equal(t, strings.ToLower(method.GetServiceName()+method.GetMethodName()), method.GetServiceName()+method.GetMethodName())
	}
	require.Equal(t, []string{
		"event_store.client.streams.streams/read", "event_store.client.streams.streams/append",
		"event_store.client.streams.streams/delete", "event_store.client.streams.streams/tombstone",
		"event_store.client.gossip.gossip/read", "event_store.client.server_features.serverfeatures/getsupportedmethods",
	}, methods)
	require.Equal(t, []string{"position", "events"}, answer.GetMethods()[0].GetFeatures())

	version, err := connect(t, node).GetServerVersion()
	require.NoError(t, err)
	require.Equal(t, esdb.ServerVersion{Major: 24, Minor: 10, Patch: 4}, *version)
}

// TestSection2Gossip: one member, leading, at the address by which the caller came.
func TestSection2Gossip(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	info, err := gossip.NewGossipClient(dial(t, node).conn).Read(testContext(t), &shared.Empty{})
	require.NoError(t, err)
	require.Len(t, info.GetMembers(), 1)
	member := info.GetMembers()[0]
	require.Equal(t, gossip.MemberInfo_Leader, member.GetState())
	require.True(t, member.GetIsAlive())
	require.Equal(t, node.Addr(), fmt.Sprintf("%s:%d", member.GetHttpEndPoint().GetAddress(), member.GetHttpEndPoint().GetPort()))

	_, port, err := net.SplitHostPort(node.Addr())
	require.NoError(t, err)
	config, err := esdb.ParseConnectionString("esdb://localhost:" + port + ",localhost:" + port + "?tls=false")
	require.NoError(t, err)
	config.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	require.NoError(t, err)
	defer client.Close()
	_, err = client.AppendToStream(testContext(t), "s", esdb.AppendToStreamOptions{}, esdb.EventData{EventType: "e"})
	require.NoError(t, err, "discovery by seeds works")
}

// TestSection3Unimplemented: what is not there says so.
func TestSection3Unimplemented(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	w := dial(t, node)
	_, err := persistent.NewPersistentSubscriptionsClient(w.conn).Create(testContext(t), &persistent.CreateReq{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	batch, err := w.streams.BatchAppend(testContext(t))
	require.NoError(t, err)
	_, err = batch.Recv()
	require.Equal(t, codes.Unimplemented, status.Code(err))

	err = connect(t, node).CreatePersistentSubscription(testContext(t), "s", "g", esdb.PersistentStreamSubscriptionOptions{})
	var failure *esdb.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, esdb.ErrorCodeUnsupportedFeature, failure.Code())
}

// TestSection12HTTP asks the HTTP/1.1 endpoints on the port that also speaks gRPC.
func TestSection12HTTP(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	table := []struct {
		method, path string
		code         int
		body         string
	}{
		{http.MethodGet, "/health/live", 204, ""},
		{http.MethodHead, "/health/live", 204, ""},
		{http.MethodGet, "/health/live?liveCode=200", 200, ""},
		{http.MethodGet, "/health/live?liveCode=nonsense", 204, ""},
		{http.MethodPost, "/health/live", 405, ""},
		{http.MethodGet, "/info", 200, `"esVersion":"24.10.4"`},
		{http.MethodGet, "/ping", 200, `"text":"Ping request successfully handled"`},
		{http.MethodGet, "/streams/s", 404, ""},
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for _, row := range table {
		t.Run(row.method+row.path, func(t *testing.T) {
			request, err := http.NewRequestWithContext(testContext(t), row.method, "http://"+node.Addr()+row.path, nil)
			require.NoError(t, err)
			response, err := client.Do(request)
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, row.code, response.StatusCode)
			require.Contains(t, string(body), row.body)
		})
	}
}

// TestSection1SilentConnections: a connection that says nothing, or nonsense, harms nobody and does not delay Close.
func TestSection1SilentConnections(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	silent, err := net.Dial("tcp", node.Addr())
	require.NoError(t, err)
	defer silent.Close()
	nonsense, err := net.Dial("tcp", node.Addr())
	require.NoError(t, err)
	defer nonsense.Close()
	_, err = nonsense.Write([]byte("PRI * but not HTTP/2 after all\r\n\r\n"))
	require.NoError(t, err)
	dial(t, node).mustAppend("s", noStream, events(1)...)
	require.NoError(t, node.Close())
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(patience)))
	_, err = silent.Read(make([]byte, 1))
	require.Error(t, err)
}

// TestSection1KeepalivePolicy sends pings every second on an idle connection, as keen clients do. With grpc's default
// policy the third would end the connection.
func TestSection1KeepalivePolicy(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	conn, err := net.Dial("tcp", node.Addr())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	require.NoError(t, framer.WriteSettings())
	const pings = 6
	acknowledged := 0
	ticker := time.NewTicker(1100 * time.Millisecond)
	defer ticker.Stop()
	frames := make(chan http2.Frame)
	failures := make(chan error, 1)
	go func() {
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				failures <- err
				return
			}
			if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
				frames <- ping
			} else if _, ok := frame.(*http2.GoAwayFrame); ok {
				failures <- fmt.Errorf("the node sent %v", frame)
				return
			}
		}
	}()
	require.NoError(t, framer.WritePing(false, [8]byte{1}))
	for acknowledged < pings {
		select {
		case <-frames:
			acknowledged++
		case <-ticker.C:
			require.NoError(t, framer.WritePing(false, [8]byte{1}))
		case err := <-failures:
			t.Fatal(err)
		}
	}
}

// TestSection1Deadlines: clients put the year 2319 into streaming calls, and short deadlines are kept.
func TestSection1Deadlines(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	w.mustAppend("s", noStream, events(0)...)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(1<<63-1))
	defer cancel()
	call, err := w.streams.Read(ctx, subscribing(streamRead("s", fromStart, false, 0)))
	require.NoError(t, err)
	for range 3 {
		_, err := call.Recv()
		require.NoError(t, err)
	}
	cancel()

	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	call, err = w.streams.Read(ctx, subscribing(streamRead("s", fromStart, false, 0)))
	require.NoError(t, err)
	for err == nil {
		_, err = call.Recv()
	}
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

// TestSection1ReceiveLimit: a message beyond grpc's default limit of 4 MiB reaches the handler, which refuses the
// append by its own rule.
func TestSection1ReceiveLimit(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}))
	_, trailers, err := w.append("s", noStream, event{id: numbered(1), kind: "e", data: string(make([]byte, 12<<20))})
	requireFault(t, err, trailers, codes.InvalidArgument, map[string]string{"exception": "maximum-append-size-exceeded"})
	_, _, err = w.append("s", noStream, event{id: numbered(1), kind: "e", data: string(make([]byte, 17<<20))})
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

// TestSection1ConcurrentStreams: a connection is told that it may have 100 calls at a time.
func TestSection1ConcurrentStreams(t *testing.T) {
	t.Parallel()
	node := openNode(t, embedded.Options{})
	conn, err := net.Dial("tcp", node.Addr())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	require.NoError(t, framer.WriteSettings())
	frame, err := framer.ReadFrame()
	require.NoError(t, err)
	settings, ok := frame.(*http2.SettingsFrame)
	require.True(t, ok, "%v", frame)
	limit, ok := settings.Value(http2.SettingMaxConcurrentStreams)
	require.True(t, ok)
	require.EqualValues(t, 100, limit)
}

// TestSection4HalfAnAppend: an append whose client goes away before it is complete writes nothing.
func TestSection4HalfAnAppend(t *testing.T) {
	t.Parallel()
	w := dial(t, openNode(t, embedded.Options{}), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	ctx, cancel := context.WithCancel(testContext(t))
	call, err := w.streams.Append(ctx)
	require.NoError(t, err)
	require.NoError(t, call.Send(appendHeader("s", noStream)))
	require.NoError(t, call.Send(proposal(events(1)[0])))
	cancel()
	require.Equal(t, codes.Canceled, status.Code(call.RecvMsg(new(streams.AppendResp))))
	w.mustAppend("after", noStream, events(2)...)
	requireNotFound(t, w, "s")
}

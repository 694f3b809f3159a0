package eventstore_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/eventstore"
)

// oddServer answers as real servers sometimes do and the embedded node never does.
type oddServer struct {
	streams.UnimplementedStreamsServer
	serverfeatures.UnimplementedServerFeaturesServer

	mute   atomic.Bool // discovery fails
	append func(streams.Streams_AppendServer) error
	read   func(*streams.ReadReq, streams.Streams_ReadServer) error
	calls  atomic.Int64
}

func (s *oddServer) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	if s.mute.Load() {
		return nil, status.Error(codes.Internal, "mute")
	}
	return &serverfeatures.SupportedMethods{EventStoreServerVersion: "24.10.4"}, nil
}

func (s *oddServer) Append(stream streams.Streams_AppendServer) error {
	s.calls.Add(1)
	return s.append(stream)
}

func (s *oddServer) Read(request *streams.ReadReq, stream streams.Streams_ReadServer) error {
	s.calls.Add(1)
	return s.read(request, stream)
}

// serve starts the server and returns a store on it.
func (s *oddServer) serve(t *testing.T, callTimeout time.Duration) contract {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	streams.RegisterStreamsServer(server, s)
	serverfeatures.RegisterServerFeaturesServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-done)
	})
	store, err := eventstore.Open(eventstore.Config{URL: "esdb://" + listener.Addr().String() + "?tls=false&gossipTimeout=1&maxDiscoverAttempts=1", CallTimeout: callTimeout, Logger: quiet}, testRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return contract{Store: store, category: "test"}
}

// drainAppend reads what a client appends, as a server must before it answers.
func drainAppend(stream streams.Streams_AppendServer) {
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

// The library panics on messages it does not know, and on a trailer that is
// not there. The program goes on.
func TestLibraryPanics(t *testing.T) {
	t.Parallel()
	server := &oddServer{
		read: func(_ *streams.ReadReq, stream streams.Streams_ReadServer) error {
			return stream.Send(&streams.ReadResp{Content: &streams.ReadResp_LastStreamPosition{LastStreamPosition: 7}})
		},
		append: func(stream streams.Streams_AppendServer) error {
			drainAppend(stream)
			stream.SetTrailer(metadata.Pairs("exception", "stream-deleted"))
			return status.Error(codes.FailedPrecondition, "deleted")
		},
	}
	c := server.serve(t, 20*time.Second)
	_, err := c.Read(t.Context(), c.stream(), 0, func(eventstore.Recorded) error { return nil })
	require.Equal(t, domain.Unavailable, domain.KindOf(err))
	require.ErrorContains(t, err, "unreachable code")
	_, err = c.Append(t.Context(), c.stream(), eventstore.NoStream, command(), note("a")...)
	require.Equal(t, domain.OutcomeUnknown, domain.KindOf(err))
	require.ErrorContains(t, err, "index out of range")
	require.Equal(t, int64(4), server.calls.Load(), "each is tried twice")
}

// A follower names the leader, and the append goes there.
func TestNotLeader(t *testing.T) {
	t.Parallel()
	leader := openNode(t, nodeOptions())
	host, port, err := net.SplitHostPort(leader.Addr())
	require.NoError(t, err)
	follower := &oddServer{append: func(stream streams.Streams_AppendServer) error {
		drainAppend(stream)
		stream.SetTrailer(metadata.Pairs("exception", "not-leader", "leader-endpoint-host", host, "leader-endpoint-port", port))
		return status.Error(codes.NotFound, "Leader info available")
	}}
	c := follower.serve(t, 20*time.Second)
	stream := c.stream()
	c.add(t, stream, eventstore.NoStream, "a")
	c.add(t, stream, 0, "b")
	require.Equal(t, int64(1), follower.calls.Load(), "from then on the leader is asked at once")
	direct := contract{Store: openStore(t, leader.ConnectionString(), testRegistry())}
	texts, _ := direct.texts(t, stream, 0)
	require.Equal(t, []string{"a", "b"}, texts)
}

// uselessLeader starts a leader that accepts connections and serves nobody. It
// lives as long as the process, because the library never closes its
// connection to such a leader.
var uselessLeader = sync.OnceValues(func() (port string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := grpc.NewServer()
	serverfeatures.RegisterServerFeaturesServer(server, hangingFeatures{})
	go func() { _ = server.Serve(listener) }() // ends with the process
	_, port, err = net.SplitHostPort(listener.Addr().String())
	return port, err
})

// leaderHangs makes the useless leader say nothing, instead of an error.
var leaderHangs atomic.Bool

type hangingFeatures struct {
	serverfeatures.UnimplementedServerFeaturesServer
}

func (hangingFeatures) GetSupportedMethods(ctx context.Context, _ *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	if leaderHangs.Load() {
		<-ctx.Done()
	}
	return nil, status.Error(codes.Internal, "this leader serves nobody")
}

// The leader a follower names is away: the library is stuck in its own
// reconnecting, and no caller is.
func TestLeaderAway(t *testing.T) {
	t.Parallel()
	port, err := uselessLeader()
	require.NoError(t, err)
	leaderHangs.Store(true)
	away := atomic.Bool{}
	away.Store(true)
	follower := &oddServer{append: func(stream streams.Streams_AppendServer) error {
		drainAppend(stream)
		if !away.Load() {
			return stream.SendAndClose(appendSuccess(0))
		}
		stream.SetTrailer(metadata.Pairs("exception", "not-leader", "leader-endpoint-host", "127.0.0.1", "leader-endpoint-port", port))
		return status.Error(codes.NotFound, "Leader info available")
	}}
	c := follower.serve(t, 300*time.Millisecond)
	concurrently(t, 5, func(int) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := c.Append(ctx, c.stream(), eventstore.NoStream, command(), note("a")...)
		require.Contains(t, []domain.Kind{domain.Unavailable, domain.OutcomeUnknown}, domain.KindOf(err))
		require.NoError(t, ctx.Err())
	})
	away.Store(false)
	require.Eventually(t, func() bool {
		_, err := c.Append(t.Context(), c.stream(), eventstore.NoStream, command(), note("a")...)
		return err == nil
	}, patience, 10*time.Millisecond)
}

func appendSuccess(revision uint64) *streams.AppendResp {
	return &streams.AppendResp{Result: &streams.AppendResp_Success_{Success: &streams.AppendResp_Success{
		CurrentRevisionOption: &streams.AppendResp_Success_CurrentRevision{CurrentRevision: revision},
		PositionOption:        &streams.AppendResp_Success_Position{Position: &streams.AppendResp_Position{CommitPosition: 9, PreparePosition: 9}},
	}}}
}

// A server that says the revision is wrong, after it stored the append and
// lost the answer. (The protocol has it answer success; not all did.)
func TestOwnAttemptFoundAfterConflict(t *testing.T) {
	t.Parallel()
	for name, mine := range map[string]bool{"own": true, "foreign": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stored atomic.Pointer[streams.AppendReq_ProposedMessage]
			server := &oddServer{}
			server.append = func(stream streams.Streams_AppendServer) error {
				for {
					request, err := stream.Recv()
					if err == io.EOF {
						break
					}
					if err != nil {
						return err
					}
					if m := request.GetProposedMessage(); m != nil && stored.Load() == nil {
						if !mine {
							m.Id.Value = &shared.UUID_String_{String_: "11111111-2222-4333-8444-555555555555"}
						}
						stored.Store(m)
					}
				}
				if server.calls.Load() == 1 {
					return status.Error(codes.Aborted, "Operation timed out: the commit took too long")
				}
				return stream.SendAndClose(&streams.AppendResp{Result: &streams.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: &streams.AppendResp_WrongExpectedVersion{
					CurrentRevisionOption:  &streams.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: 0},
					ExpectedRevisionOption: &streams.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &shared.Empty{}},
				}}})
			}
			server.read = func(request *streams.ReadReq, stream streams.Streams_ReadServer) error {
				m := stored.Load()
				return stream.Send(&streams.ReadResp{Content: &streams.ReadResp_Event{Event: &streams.ReadResp_ReadEvent{Event: &streams.ReadResp_ReadEvent_RecordedEvent{
					Id: m.Id, StreamIdentifier: request.GetOptions().GetStream().StreamIdentifier, CommitPosition: 77, PreparePosition: 77,
					Metadata: map[string]string{"type": "TestNoted", "content-type": "application/json", "created": "17000000000000000"},
					Data:     m.Data, CustomMetadata: m.CustomMetadata,
				}}}})
			}
			c := server.serve(t, 20*time.Second)
			stream := c.stream()
			appended, err := c.Append(t.Context(), stream, eventstore.NoStream, command(), note("a")...)
			if mine {
				require.NoError(t, err)
				require.Equal(t, eventstore.Appended{Position: 77, Revision: 0}, appended)
				return
			}
			var conflict *eventstore.ConflictError
			require.ErrorAs(t, err, &conflict)
			require.Equal(t, eventstore.ConflictError{Stream: stream, Expected: eventstore.NoStream, Actual: 0}, *conflict)
		})
	}
}

// A server that refuses before it has read everything: the library only says
// EOF. Nothing was stored.
func TestRefusedWhileSending(t *testing.T) {
	t.Parallel()
	server := &oddServer{append: func(streams.Streams_AppendServer) error {
		return status.Error(codes.Unavailable, "Server not ready")
	}}
	c := server.serve(t, 20*time.Second)
	// Many messages, so that the refusal overtakes them.
	_, err := c.Append(t.Context(), c.stream(), eventstore.NoStream, command(), note(make([]string, 3000)...)...)
	require.Contains(t, []domain.Kind{domain.Unavailable, domain.OutcomeUnknown}, domain.KindOf(err))
}

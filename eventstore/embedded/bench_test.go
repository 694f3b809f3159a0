package embedded_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

// The benchmarks come in pairs so that one run gives ratios: Append against GRPCUnary and PebbleSync, CatchUp1M
// against GRPCStream. EMBEDDED_BENCH_EVENTS sets how many events the catch-up pair moves; the default is small.

const benchPayload = 300

var benchWriters = []int{1, 8, 64}

func benchEvents(b *testing.B) int {
	text := os.Getenv("EMBEDDED_BENCH_EVENTS")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	require.NoError(b, err)
	return n
}

// spread runs b.N operations on a number of workers.
func spread(b *testing.B, workers int, operation func(worker, i int) error) {
	b.Helper()
	var (
		next    atomic.Int64
		failure atomic.Pointer[error]
		done    sync.WaitGroup
	)
	b.ReportAllocs()
	b.ResetTimer()
	for worker := range workers {
		done.Add(1)
		go func() {
			defer done.Done()
			for i := 0; next.Add(1) <= int64(b.N); i++ {
				if err := operation(worker, i); err != nil {
					failure.Store(&err)
					return
				}
			}
		}()
	}
	done.Wait()
	b.StopTimer()
	if err := failure.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range benchWriters {
		b.Run(strconv.Itoa(writers), func(b *testing.B) {
			client := connect(b, openNode(b, embedded.Options{Dir: b.TempDir()}))
			data := bytes.Repeat([]byte("x"), benchPayload)
			run := uuid.NewString()
			spread(b, writers, func(worker, i int) error {
				expected := esdb.ExpectedRevision(esdb.NoStream{})
				if i > 0 {
					expected = esdb.Revision(uint64(i - 1))
				}
				_, err := client.AppendToStream(b.Context(), fmt.Sprintf("bench%d-%s", worker, run),
					esdb.AppendToStreamOptions{ExpectedRevision: expected},
					esdb.EventData{EventType: "benchmarked", ContentType: esdb.ContentTypeJson, Data: data})
				return err
			})
		})
	}
}

func BenchmarkGRPCUnary(b *testing.B) {
	for _, callers := range benchWriters {
		b.Run(strconv.Itoa(callers), func(b *testing.B) {
			conn := serveRaw(b, nil)
			request := &streams.AppendReq{Content: &streams.AppendReq_ProposedMessage_{
				ProposedMessage: &streams.AppendReq_ProposedMessage{Data: bytes.Repeat([]byte("x"), benchPayload)},
			}}
			spread(b, callers, func(int, int) error {
				return conn.Invoke(b.Context(), "/bench.Raw/Unary", request, new(streams.AppendResp))
			})
		})
	}
}

func BenchmarkPebbleSync(b *testing.B) {
	for _, writers := range benchWriters {
		b.Run(strconv.Itoa(writers), func(b *testing.B) {
			db, err := pebble.Open(b.TempDir(), &pebble.Options{MemTableSize: 32 << 20, Logger: silent{b}})
			require.NoError(b, err)
			defer func() { require.NoError(b, db.Close()) }()
			var position atomic.Uint64
			value := bytes.Repeat([]byte("x"), benchPayload)
			spread(b, writers, func(worker, i int) error {
				batch := db.NewBatch()
				at := binary.BigEndian.AppendUint64(nil, position.Add(1))
				index := binary.BigEndian.AppendUint64(fmt.Appendf(nil, "s%d", worker), uint64(i))
				if err := batch.Set(append([]byte("e"), at...), value, nil); err != nil {
					return err
				}
				if err := batch.Set(index, at, nil); err != nil {
					return err
				}
				return batch.Commit(pebble.Sync)
			})
		})
	}
}

// BenchmarkCatchUp1M reads the whole log through the official client; one operation is one event.
func BenchmarkCatchUp1M(b *testing.B) {
	events := benchEvents(b)
	client := connect(b, openNode(b, embedded.Options{Dir: b.TempDir()}))
	data := bytes.Repeat([]byte("x"), benchPayload)
	const perAppend = 1000
	for at := 0; at < events; at += perAppend {
		batch := make([]esdb.EventData, min(perAppend, events-at))
		for i := range batch {
			batch[i] = esdb.EventData{EventType: "benchmarked", ContentType: esdb.ContentTypeJson, Data: data}
		}
		_, err := client.AppendToStream(b.Context(), fmt.Sprintf("bench-%d", at), esdb.AppendToStreamOptions{}, batch...)
		require.NoError(b, err)
	}
	b.ResetTimer()
	total := 0
	for b.Loop() {
		read, err := client.ReadAll(b.Context(), esdb.ReadAllOptions{From: esdb.Start{}}, ^uint64(0))
		require.NoError(b, err)
		n := 0
		for ; ; n++ {
			if _, err := read.Recv(); err != nil {
				break
			}
		}
		read.Close()
		require.Equal(b, events, n)
		total += n
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkGRPCStream streams the same messages from memory.
func BenchmarkGRPCStream(b *testing.B) {
	events := benchEvents(b)
	message := &streams.ReadResp{Content: &streams.ReadResp_Event{Event: &streams.ReadResp_ReadEvent{
		Event: &streams.ReadResp_ReadEvent_RecordedEvent{
			Id: &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
				MostSignificantBits: 1<<62 + 1, LeastSignificantBits: 1<<61 + 1,
			}}},
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte("bench-100000")},
			StreamRevision:   1000, CommitPosition: 1 << 30, PreparePosition: 1 << 30,
			Metadata: map[string]string{
				"type": "benchmarked", "content-type": "application/json", "created": "17953793308781630",
			},
			Data: bytes.Repeat([]byte("x"), benchPayload),
		},
		Position: &streams.ReadResp_ReadEvent_CommitPosition{CommitPosition: 1 << 30},
	}}}
	conn := serveRaw(b, func(stream grpc.ServerStream) error {
		for range events {
			if err := stream.SendMsg(message); err != nil {
				return err
			}
		}
		return nil
	})
	b.ResetTimer()
	total := 0
	for b.Loop() {
		stream, err := conn.NewStream(b.Context(), &grpc.StreamDesc{ServerStreams: true}, "/bench.Raw/Stream")
		require.NoError(b, err)
		require.NoError(b, stream.SendMsg(&shared.Empty{}))
		require.NoError(b, stream.CloseSend())
		n := 0
		for ; stream.RecvMsg(new(streams.ReadResp)) == nil; n++ {
		}
		require.Equal(b, events, n)
		total += n
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "events/s")
}

// serveRaw starts a bare gRPC server with a unary and a streaming method and connects to it.
func serveRaw(b *testing.B, stream func(grpc.ServerStream) error) *grpc.ClientConn {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Raw",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Unary",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := decode(new(streams.AppendReq)); err != nil {
					return nil, err
				}
				return &streams.AppendResp{Result: &streams.AppendResp_Success_{Success: &streams.AppendResp_Success{
					CurrentRevisionOption: &streams.AppendResp_Success_CurrentRevision{CurrentRevision: 1},
				}}}, nil
			},
		}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", ServerStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
				if err := s.RecvMsg(new(shared.Empty)); err != nil {
					return err
				}
				return stream(s)
			},
		}},
	}, struct{}{})
	go func() { _ = server.Serve(listener) }()
	b.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(17<<20)))
	require.NoError(b, err)
	b.Cleanup(func() { _ = conn.Close() })
	return conn
}

// silent keeps storage's chatter out of benchmark output.
type silent struct{ b *testing.B }

func (silent) Infof(string, ...any)                {}
func (s silent) Errorf(format string, args ...any) { s.b.Logf(format, args...) }
func (s silent) Fatalf(format string, args ...any) { s.b.Fatalf(format, args...) }

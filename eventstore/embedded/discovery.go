package embedded

import (
	"context"
	"encoding/binary"
	"net"
	"strconv"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// serverVersion is the version of EventStoreDB whose behaviour the node reproduces. Clients parse it as exactly
// three numbers and choose by it.
const serverVersion = "24.10.4"

// features tells clients what this node can do. It names only what exists.
type features struct {
	serverfeatures.UnimplementedServerFeaturesServer
}

// GetSupportedMethods implements serverfeatures.ServerFeaturesServer.
func (features) GetSupportedMethods(context.Context, *shared.Empty) (*serverfeatures.SupportedMethods, error) {
	const streamsService = "event_store.client.streams.streams"
	return &serverfeatures.SupportedMethods{
		EventStoreServerVersion: serverVersion,
		Methods: []*serverfeatures.SupportedMethod{
			{ServiceName: streamsService, MethodName: "read", Features: []string{"position", "events"}},
			{ServiceName: streamsService, MethodName: "append"},
			{ServiceName: streamsService, MethodName: "delete"},
			{ServiceName: streamsService, MethodName: "tombstone"},
			{ServiceName: "event_store.client.gossip.gossip", MethodName: "read"},
			{ServiceName: "event_store.client.server_features.serverfeatures", MethodName: "getsupportedmethods"},
		},
	}, nil
}

// members answers gossip: this node alone, leading.
type members struct {
	gossip.UnimplementedGossipServer
	service  *service
	instance eventID
}

// Read implements gossip.GossipServer. Clients dial the address they are given, so it is the one by which this
// call came in.
func (m *members) Read(ctx context.Context, _ *shared.Empty) (*gossip.ClusterInfo, error) {
	host, port := m.dialled(ctx)
	return &gossip.ClusterInfo{Members: []*gossip.MemberInfo{{
		InstanceId: &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
			MostSignificantBits:  int64(binary.BigEndian.Uint64(m.instance[:8])),
			LeastSignificantBits: int64(binary.BigEndian.Uint64(m.instance[8:])),
		}}},
		TimeStamp:    ticks(m.service.log.now()),
		State:        gossip.MemberInfo_Leader,
		IsAlive:      true,
		HttpEndPoint: &gossip.EndPoint{Address: host, Port: port},
	}}}, nil
}

func (m *members) dialled(ctx context.Context) (host string, port uint32) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, authority := range md.Get(":authority") {
			if host, port, ok := splitAddress(authority); ok {
				return host, port
			}
		}
	}
	if p, ok := peer.FromContext(ctx); ok && p.LocalAddr != nil {
		if host, port, ok := splitAddress(p.LocalAddr.String()); ok {
			return host, port
		}
	}
	host, port, _ = splitAddress(m.service.address)
	return host, port
}

func splitAddress(address string) (host string, port uint32, ok bool) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return "", 0, false
	}
	number, err := strconv.ParseUint(portText, 10, 16)
	return host, uint32(number), err == nil
}

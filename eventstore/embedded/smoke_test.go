package embedded_test

import (
	"context"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/stretchr/testify/require"

	"github.com/sparkops/control-plane/eventstore/embedded"
)

func TestSmoke(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node, err := embedded.Open(ctx, embedded.Options{Addr: "127.0.0.1:0"})
	require.NoError(t, err)
	defer node.Close()
	config, err := esdb.ParseConnectionString(node.ConnectionString())
	require.NoError(t, err)
	client, err := esdb.NewClient(config)
	require.NoError(t, err)
	defer client.Close()
	sub, err := client.SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.Start{}, Filter: esdb.ExcludeSystemEventsFilter()})
	require.NoError(t, err)
	res, err := client.AppendToStream(ctx, "s-1", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}},
		esdb.EventData{EventType: "a", ContentType: esdb.ContentTypeJson, Data: []byte(`{}`)},
		esdb.EventData{EventType: "b", ContentType: esdb.ContentTypeJson, Data: []byte(`{}`)})
	require.NoError(t, err)
	require.EqualValues(t, 1, res.NextExpectedVersion)
	for i := 0; i < 4; {
		e := sub.Recv()
		t.Logf("%+v", e)
		require.Nil(t, e.SubscriptionDropped)
		if e.EventAppeared != nil {
			i += 2
		}
	}
	stream, err := client.ReadStream(ctx, "s-1", esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 10)
	require.NoError(t, err)
	for {
		e, err := stream.Recv()
		if err != nil {
			t.Log(err)
			break
		}
		t.Logf("%+v", e.Event)
	}
	require.NoError(t, node.Close())
}

package embedded

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that codecV2 falls back to
	"google.golang.org/grpc/mem"
)

// encoded is a message that is on the wire format already. Its bytes must not change until they are sent, which
// is later than SendMsg returns.
type encoded struct{ wire []byte }

// wireDecoder is a message that decodes itself. The bytes belong to the caller of decode.
type wireDecoder interface {
	decode(wire []byte) error
}

// codec is protobuf as grpc does it, with a shorter way for the two messages that matter: events on their way out
// and appends on their way in.
type codec struct{ fallback encoding.CodecV2 }

func newCodec() codec { return codec{fallback: encoding.GetCodecV2("proto")} }

// Name implements encoding.CodecV2.
func (c codec) Name() string { return c.fallback.Name() }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if message, ok := v.(*encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(message.wire)}, nil
	}
	return c.fallback.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(wireDecoder)
	if !ok {
		return c.fallback.Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return message.decode(buffer.ReadOnlyData())
}

package embedded

import (
	"encoding/binary"
	"errors"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// A record is one event of the log. It is stored as a fixed header followed by the complete, already encoded
// ReadResp message that readers receive, so that sending an event costs a copy and no encoding. The header says
// where in that message the stream name and the event type are, which is all that filters look at.
type record struct {
	position  uint64
	revision  int64
	created   int64 // 100 ns ticks since 1970
	id        eventID
	stream    string
	eventType string
	wire      []byte // encoded ReadResp, never modified once made
}

// recordView is a record decoded in place: its slices belong to the storage iterator.
type recordView struct {
	revision          int64
	created           int64
	stream, eventType []byte
	wire              []byte
}

const (
	recordVersion    = 1
	recordHeaderSize = 1 + 1 + 2 + 4 + 4 + 4 + 8 + 8

	contentTypeJSON   = "application/json"
	contentTypeBinary = "application/octet-stream"

	metadataType        = "type"
	metadataContentType = "content-type"
	metadataCreated     = "created"
)

var errRecordCorrupt = errors.New("stored event is malformed")

// proposed is an event as a client asked for it.
type proposed struct {
	id        eventID
	eventType string
	json      bool
	custom    []byte
	data      []byte
}

func (p *proposed) contentType() string {
	if p.json {
		return contentTypeJSON
	}
	return contentTypeBinary
}

// recordSize tells how many bytes appendRecord needs at most.
func recordSize(stream string, p *proposed) int {
	return recordHeaderSize + 192 + len(stream) + len(p.eventType) + len(p.custom) + len(p.data)
}

// appendRecord appends the stored form of p to dst.
func appendRecord(dst []byte, stream string, revision int64, position uint64, created int64, p *proposed) []byte {
	var createdBuf [20]byte
	createdText := strconv.AppendInt(createdBuf[:0], created, 10)
	msb, lsb := binary.BigEndian.Uint64(p.id[:8]), binary.BigEndian.Uint64(p.id[8:])

	structured := sizeVarintField(msb) + sizeVarintField(lsb)
	uuid := sizeBytesField(structured)
	typeEntry := sizeBytesField(len(metadataType)) + sizeBytesField(len(p.eventType))
	contentEntry := sizeBytesField(len(metadataContentType)) + sizeBytesField(len(p.contentType()))
	createdEntry := sizeBytesField(len(metadataCreated)) + sizeBytesField(len(createdText))
	event := sizeBytesField(uuid) + sizeBytesField(sizeBytesField(len(stream))) +
		sizeVarintField(uint64(revision)) + 2*sizeVarintField(position) +
		sizeBytesField(typeEntry) + sizeBytesField(contentEntry) + sizeBytesField(createdEntry) +
		sizeOptionalBytes(p.custom) + sizeOptionalBytes(p.data)
	readEvent := sizeBytesField(event) + 1 + protowire.SizeVarint(position)

	start := len(dst)
	dst = append(dst, make([]byte, recordHeaderSize)...)
	wire := len(dst)
	dst = appendLen(dst, 1, readEvent) // ReadResp.event
	dst = appendLen(dst, 1, event)     // ReadEvent.event
	dst = appendLen(dst, 1, uuid)      // RecordedEvent.id
	dst = appendLen(dst, 1, structured)
	dst = appendVarintField(dst, 1, msb)
	dst = appendVarintField(dst, 2, lsb)
	dst = appendLen(dst, 2, sizeBytesField(len(stream)))
	dst = appendLen(dst, 3, len(stream))
	streamAt := len(dst) - wire
	dst = append(dst, stream...)
	dst = appendVarintField(dst, 3, uint64(revision))
	dst = appendVarintField(dst, 4, position)
	dst = appendVarintField(dst, 5, position)
	dst = appendLen(dst, 6, typeEntry)
	dst = appendString(dst, 1, metadataType)
	dst = appendLen(dst, 2, len(p.eventType))
	typeAt := len(dst) - wire
	dst = append(dst, p.eventType...)
	dst = appendLen(dst, 6, contentEntry)
	dst = appendString(dst, 1, metadataContentType)
	dst = appendString(dst, 2, p.contentType())
	dst = appendLen(dst, 6, createdEntry)
	dst = appendString(dst, 1, metadataCreated)
	dst = appendLen(dst, 2, len(createdText))
	dst = append(dst, createdText...)
	dst = appendOptionalBytes(dst, 7, p.custom)
	dst = appendOptionalBytes(dst, 8, p.data)
	// ReadEvent.commit_position is a oneof arm: it is written even where it is zero.
	dst = protowire.AppendVarint(protowire.AppendTag(dst, 3, protowire.VarintType), position)

	header := dst[start:wire]
	header[0] = recordVersion
	binary.BigEndian.PutUint16(header[2:], uint16(streamAt))
	binary.BigEndian.PutUint32(header[4:], uint32(len(stream)))
	binary.BigEndian.PutUint32(header[8:], uint32(typeAt))
	binary.BigEndian.PutUint32(header[12:], uint32(len(p.eventType)))
	binary.BigEndian.PutUint64(header[16:], uint64(created))
	binary.BigEndian.PutUint64(header[24:], uint64(revision))
	return dst
}

// parseRecord decodes the header of a stored record without copying.
func parseRecord(value []byte) (recordView, error) {
	if len(value) < recordHeaderSize || value[0] != recordVersion {
		return recordView{}, errRecordCorrupt
	}
	wire := value[recordHeaderSize:]
	streamAt, streamLen := uint64(binary.BigEndian.Uint16(value[2:])), uint64(binary.BigEndian.Uint32(value[4:]))
	typeAt, typeLen := uint64(binary.BigEndian.Uint32(value[8:])), uint64(binary.BigEndian.Uint32(value[12:]))
	if streamAt+streamLen > uint64(len(wire)) || typeAt+typeLen > uint64(len(wire)) {
		return recordView{}, errRecordCorrupt
	}
	return recordView{
		revision:  int64(binary.BigEndian.Uint64(value[24:])),
		created:   int64(binary.BigEndian.Uint64(value[16:])),
		stream:    wire[streamAt : streamAt+streamLen],
		eventType: wire[typeAt : typeAt+typeLen],
		wire:      wire,
	}, nil
}

func sizeVarintField(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeBytesField(n int) int { return 1 + protowire.SizeBytes(n) }

func sizeOptionalBytes(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return sizeBytesField(len(b))
}

func appendLen(dst []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.BytesType), uint64(n))
}

func appendVarintField(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func appendString(dst []byte, field protowire.Number, s string) []byte {
	return append(appendLen(dst, field, len(s)), s...)
}

func appendOptionalBytes(dst []byte, field protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return append(appendLen(dst, field, len(b)), b...)
}

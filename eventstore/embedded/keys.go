package embedded

import (
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"
)

// The key space of the log. All integers are big-endian so that keys sort by number.
//
//	e <position:8>                          -> record (record.go)
//	s <len:2> <stream> <revision:8>         -> position:8 id:16
//	h <stream>                              -> head (head.go)
//	i <xxhash64(stream):8> <event id:16>    -> revision:8
//	!format                                 -> version of this layout
const (
	prefixFormat = '!'
	prefixEvent  = 'e'
	prefixHead   = 'h'
	prefixID     = 'i'
	prefixIndex  = 's'
)

const (
	formatVersion = "1"

	// firstPosition is where the log begins; 0 is left free so that position 0 always means the start.
	firstPosition = 128

	// maxStreamName bounds a stream name because its length is stored in two bytes.
	maxStreamName = 32 << 10

	// tombstoneRevision is the event number of a tombstone, and the last revision of a tombstoned stream.
	tombstoneRevision = math.MaxInt64
)

type eventID [16]byte

func formatKey() []byte { return []byte{prefixFormat, 'f', 'o', 'r', 'm', 'a', 't'} }

func appendEventKey(dst []byte, position uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, prefixEvent), position)
}

func eventKeyPosition(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }

func appendIndexPrefix(dst []byte, stream string) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, prefixIndex), uint16(len(stream)))
	return append(dst, stream...)
}

func appendIndexKey(dst []byte, stream string, revision int64) []byte {
	return binary.BigEndian.AppendUint64(appendIndexPrefix(dst, stream), uint64(revision))
}

func indexKeyRevision(key []byte) int64 {
	return int64(binary.BigEndian.Uint64(key[len(key)-8:]))
}

func appendIndexValue(dst []byte, position uint64, id eventID) []byte {
	return append(binary.BigEndian.AppendUint64(dst, position), id[:]...)
}

func parseIndexValue(value []byte) (position uint64, id eventID) {
	copy(id[:], value[8:])
	return binary.BigEndian.Uint64(value), id
}

func appendHeadKey(dst []byte, stream string) []byte {
	return append(append(dst, prefixHead), stream...)
}

func appendIDKey(dst []byte, streamHash uint64, id eventID) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, prefixID), streamHash)
	return append(dst, id[:]...)
}

func hashStream(stream string) uint64 { return xxhash.Sum64String(stream) }

package embedded

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"strings"
)

// head is what deciding an append or a read of a stream needs to know about it. It is stored with every append,
// in the same batch, so it can never disagree with the index.
type head struct {
	last    int64 // number of the last event, -1 before the first, tombstoneRevision after a tombstone
	hasMeta bool  // $$stream has at least one event
	rules   rules // from the latest event of $$stream
}

// rules is the part of a stream's metadata that hides events. Zero means not set.
type rules struct {
	truncateBefore int64
	maxCount       int64
	maxAge         int64 // seconds
}

const (
	metastreamPrefix = "$$"
	metadataEvent    = "$metadata"
	tombstoneEvent   = "$streamDeleted"
	headVersion      = 1

	noEvents = -1

	// softDeleted as $tb marks a stream that was deleted but may be written to again.
	softDeleted = math.MaxInt64
)

var errHeadCorrupt = errors.New("stored stream head is malformed")

func (h head) tombstoned() bool  { return h.last == tombstoneRevision }
func (h head) softDeleted() bool { return h.rules.truncateBefore == softDeleted }

// firstVisible is the number of the first event that $maxCount and $tb leave visible.
func (h head) firstVisible() int64 {
	first := h.rules.truncateBefore
	if h.rules.maxCount > 0 {
		first = max(first, h.last-h.rules.maxCount+1)
	}
	return first
}

func isMetastream(stream string) bool { return strings.HasPrefix(stream, metastreamPrefix) }

// effective returns the head with the rules that apply to the stream: a metastream shows its latest event only.
func (h head) effective(stream string) head {
	if isMetastream(stream) {
		h.rules = rules{maxCount: 1}
	}
	return h
}

func (h head) encode(dst []byte) []byte {
	flags := byte(0)
	if h.hasMeta {
		flags = 1
	}
	dst = append(dst, headVersion, flags)
	dst = binary.AppendVarint(dst, h.last)
	dst = binary.AppendVarint(dst, h.rules.truncateBefore)
	dst = binary.AppendVarint(dst, h.rules.maxCount)
	return binary.AppendVarint(dst, h.rules.maxAge)
}

func decodeHead(value []byte) (head, error) {
	if len(value) < 2 || value[0] != headVersion {
		return head{}, errHeadCorrupt
	}
	h := head{hasMeta: value[1]&1 != 0}
	value = value[2:]
	for _, field := range []*int64{&h.last, &h.rules.truncateBefore, &h.rules.maxCount, &h.rules.maxAge} {
		v, n := binary.Varint(value)
		if n <= 0 {
			return head{}, errHeadCorrupt
		}
		*field, value = v, value[n:]
	}
	return h, nil
}

// parseRules reads the metadata JSON of a stream. Anything but an object whose known keys are valid counts as no
// metadata at all, as it does in EventStoreDB.
func parseRules(isJSON bool, data []byte) rules {
	if !isJSON {
		return rules{}
	}
	var m struct {
		TruncateBefore *int64 `json:"$tb"`
		MaxCount       *int64 `json:"$maxCount"`
		MaxAge         *int64 `json:"$maxAge"`
	}
	if json.Unmarshal(data, &m) != nil {
		return rules{}
	}
	var r rules
	for _, field := range []struct {
		value *int64
		least int64
		to    *int64
	}{{m.TruncateBefore, 0, &r.truncateBefore}, {m.MaxCount, 1, &r.maxCount}, {m.MaxAge, 1, &r.maxAge}} {
		if field.value == nil {
			continue
		}
		if *field.value < field.least {
			return rules{}
		}
		*field.to = *field.value
	}
	return r
}

// withTruncateBefore returns metadata with $tb replaced and all other keys kept.
func withTruncateBefore(metadata []byte, before int64) []byte {
	keys := map[string]json.RawMessage{}
	decoder := json.NewDecoder(bytes.NewReader(metadata))
	if decoder.Decode(&keys) != nil || keys == nil {
		keys = map[string]json.RawMessage{}
	}
	keys["$tb"], _ = json.Marshal(before)
	out, err := json.Marshal(keys)
	if err != nil {
		// Unreachable: the values were just decoded.
		out = []byte("{}")
	}
	return out
}

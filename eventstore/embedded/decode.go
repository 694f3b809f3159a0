package embedded

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
)

// appendMessage is one message of an append's request stream: its options or an event. It decodes itself because
// the append is the call that matters most, and general decoding is most of its cost.
type appendMessage struct {
	kind   appendMessageKind
	stream string
	want   expectation
	event  proposed

	hasType, hasContentType bool
}

type appendMessageKind uint8

const (
	appendNothing appendMessageKind = iota
	appendOptions
	appendEvent
)

var errMalformed = errors.New("message is not valid protobuf")

// decode implements wireDecoder for streams.AppendReq.
func (m *appendMessage) decode(wire []byte) error {
	*m = appendMessage{}
	return eachField(wire, func(number protowire.Number, kind protowire.Type, _ uint64, content []byte) error {
		if kind != protowire.BytesType {
			return nil
		}
		switch number {
		case 1:
			*m = appendMessage{kind: appendOptions}
			return m.decodeOptions(content)
		case 2:
			// One copy of the message carries all byte fields of the event.
			*m = appendMessage{kind: appendEvent}
			return m.decodeEvent(append([]byte(nil), content...))
		}
		return nil
	})
}

func (m *appendMessage) decodeOptions(wire []byte) error {
	return eachField(wire, func(number protowire.Number, kind protowire.Type, value uint64, content []byte) error {
		switch {
		case number == 1 && kind == protowire.BytesType:
			return eachField(content, func(number protowire.Number, kind protowire.Type, _ uint64, content []byte) error {
				if number == 3 && kind == protowire.BytesType {
					m.stream = string(content)
				}
				return nil
			})
		case number == 2 && kind == protowire.VarintType:
			m.want = expectedRevision(value)
		case number == 3 && kind == protowire.BytesType:
			m.want = expectation{kind: expectNoStream}
		case number == 4 && kind == protowire.BytesType:
			m.want = expectation{kind: expectAny}
		case number == 5 && kind == protowire.BytesType:
			m.want = expectation{kind: expectExists}
		}
		return nil
	})
}

func (m *appendMessage) decodeEvent(wire []byte) error {
	return eachField(wire, func(number protowire.Number, kind protowire.Type, _ uint64, content []byte) error {
		if kind != protowire.BytesType {
			return nil
		}
		switch number {
		case 1:
			return decodeUUID(content, &m.event.id)
		case 2:
			return m.decodeProperty(content)
		case 3:
			m.event.custom = content
		case 4:
			m.event.data = content
		}
		return nil
	})
}

// decodeProperty reads one entry of the metadata map.
func (m *appendMessage) decodeProperty(wire []byte) error {
	var key, value []byte
	err := eachField(wire, func(number protowire.Number, kind protowire.Type, _ uint64, content []byte) error {
		if kind == protowire.BytesType && number == 1 {
			key = content
		} else if kind == protowire.BytesType && number == 2 {
			value = content
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !utf8.Valid(key) || !utf8.Valid(value) {
		return errMalformed
	}
	switch string(key) {
	case metadataType:
		m.event.eventType, m.hasType = string(value), true
	case metadataContentType:
		m.event.json, m.hasContentType = string(value) == contentTypeJSON, true
	}
	return nil
}

// decodeUUID leaves the id zero where it is not a UUID; the caller refuses such events.
func decodeUUID(wire []byte, id *eventID) error {
	return eachField(wire, func(number protowire.Number, kind protowire.Type, _ uint64, content []byte) error {
		if kind != protowire.BytesType {
			return nil
		}
		switch number {
		case 1:
			*id = eventID{}
			return eachField(content, func(number protowire.Number, kind protowire.Type, value uint64, _ []byte) error {
				if kind == protowire.VarintType && number == 1 {
					binary.BigEndian.PutUint64(id[:8], value)
				} else if kind == protowire.VarintType && number == 2 {
					binary.BigEndian.PutUint64(id[8:], value)
				}
				return nil
			})
		case 2:
			if !utf8.Valid(content) {
				return errMalformed
			}
			parsed, err := uuid.ParseBytes(content)
			if err != nil {
				parsed = uuid.Nil
			}
			*id = eventID(parsed)
		}
		return nil
	})
}

// eachField calls visit for each field of an encoded message: with value for varints, content for bytes.
func eachField(wire []byte, visit func(protowire.Number, protowire.Type, uint64, []byte) error) error {
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return errMalformed
		}
		wire = wire[n:]
		var value uint64
		var content []byte
		switch kind {
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(wire)
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(wire)
		default:
			n = protowire.ConsumeFieldValue(number, kind, wire)
		}
		if n < 0 {
			return errMalformed
		}
		wire = wire[n:]
		if err := visit(number, kind, value, content); err != nil {
			return err
		}
	}
	return nil
}

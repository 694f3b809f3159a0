package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/sparkops/control-plane/domain"
)

// Bounds of a JSON body. Whatever passes them can be stored as it is, also
// where it is free-form: Postgres takes neither NUL nor half a surrogate pair.
const (
	maxDepth  = 64
	maxNumber = 64 // characters of one number
)

func malformed(message string) error {
	return domain.Fail(domain.Malformed, "MALFORMED", "The body is not acceptable JSON: %s.", message)
}

// checkJSON refuses everything that is not exactly one JSON value in valid
// UTF-8, nested at most 64 levels deep, with numbers that fit a float64 and
// strings of whole Unicode characters without NUL.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return malformed("it is not UTF-8")
	}
	if err := checkDepth(data); err != nil {
		return err
	}
	if !json.Valid(data) {
		var syntax *json.SyntaxError
		if err := json.Unmarshal(data, new(json.RawMessage)); errors.As(err, &syntax) {
			return malformed("syntax error at byte " + strconv.FormatInt(syntax.Offset, 10))
		}
		return malformed("syntax error")
	}
	for i := 0; i < len(data); {
		switch c := data[i]; {
		case c == '"':
			end := stringEnd(data, i)
			if err := checkString(data[i:end]); err != nil {
				return err
			}
			i = end
		case c == '-' || '0' <= c && c <= '9':
			end := i + 1
			for end < len(data) && bytes.IndexByte([]byte("+-.eE0123456789"), data[end]) >= 0 {
				end++
			}
			if err := checkNumber(data[i:end]); err != nil {
				return err
			}
			i = end
		default:
			i++
		}
	}
	return nil
}

// checkDepth counts brackets outside of strings before anything recurses.
func checkDepth(data []byte) error {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = stringEnd(data, i) - 1
		case '{', '[':
			if depth++; depth > maxDepth {
				return malformed("it is nested more than 64 levels deep")
			}
		case '}', ']':
			depth--
		}
	}
	return nil
}

// stringEnd returns the index after the string that starts at i.
func stringEnd(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// checkString looks at the \u escapes of a valid JSON string; bytes that are
// not escaped are valid UTF-8 already.
func checkString(s []byte) error {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if i++; s[i] != 'u' {
			continue
		}
		switch r := hex4(s[i+1:]); {
		case r == 0:
			return malformed("a string holds the character NUL")
		case r >= 0xDC00 && r <= 0xDFFF:
			return malformed("a string holds half a surrogate pair")
		case r >= 0xD800 && r <= 0xDBFF:
			low := s[i+5:]
			if len(low) < 6 || low[0] != '\\' || low[1] != 'u' || hex4(low[2:]) < 0xDC00 || hex4(low[2:]) > 0xDFFF {
				return malformed("a string holds half a surrogate pair")
			}
			i += 10
		default:
			i += 4
		}
	}
	return nil
}

func hex4(s []byte) int64 {
	if len(s) < 4 {
		return -1
	}
	n, err := strconv.ParseInt(string(s[:4]), 16, 32)
	if err != nil {
		return -1
	}
	return n
}

func checkNumber(s []byte) error {
	if len(s) > maxNumber {
		return malformed("a number has more than 64 characters")
	}
	f, err := strconv.ParseFloat(string(s), 64)
	if err != nil || math.IsInf(f, 0) {
		return malformed("a number is out of range")
	}
	if f == 0 && bytes.ContainsAny(mantissa(s), "123456789") {
		return malformed("a number is out of range")
	}
	return nil
}

func mantissa(s []byte) []byte {
	if i := bytes.IndexAny(s, "eE"); i >= 0 {
		return s[:i]
	}
	return s
}

package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// schemas keeps compiled schemas by their text; few differ.
var schemas = struct {
	sync.Mutex
	compiled map[string]*jsonschema.Schema
}{compiled: map[string]*jsonschema.Schema{}}

const schemasKept = 1024

// CheckArguments checks arguments against a JSON Schema (2020-12 where it does
// not say). Nil arguments are an empty object; an empty schema allows every
// object. The error is an *Error; its message says what is wrong where, for
// the model or the user to correct. References outside the schema itself are
// not loaded.
func CheckArguments(schema, arguments json.RawMessage) error {
	if len(arguments) == 0 {
		arguments = json.RawMessage(`{}`)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(arguments))
	if err != nil {
		return &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments are not valid JSON."}
	}
	if len(schema) == 0 {
		return nil
	}
	compiled, err := compile(schema)
	if err != nil {
		return &Error{Code: "TOOL_CONFIG_INVALID", Message: "The schema of the tool's parameters is not valid.", Cause: err}
	}
	var invalid *jsonschema.ValidationError
	if err := compiled.Validate(value); errors.As(err, &invalid) {
		return &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments do not fit the tool's parameters: " + explain(invalid) + "."}
	} else if err != nil {
		return &Error{Code: "TOOL_ARGUMENTS_INVALID", Message: "The arguments could not be checked.", Cause: err}
	}
	return nil
}

// CheckSchema reports whether a JSON Schema can be used; an empty one can.
func CheckSchema(schema json.RawMessage) error {
	if len(schema) == 0 {
		return nil
	}
	_, err := compile(schema)
	return err
}

func compile(schema json.RawMessage) (*jsonschema.Schema, error) {
	schemas.Lock()
	defer schemas.Unlock()
	if c, ok := schemas.compiled[string(schema)]; ok {
		return c, nil
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{}) // nothing is ever fetched or read
	const name = "mem:///parameters.json"
	if err := compiler.AddResource(name, document); err != nil {
		return nil, err
	}
	c, err := compiler.Compile(name)
	if err != nil {
		return nil, err
	}
	if len(schemas.compiled) >= schemasKept {
		clear(schemas.compiled)
	}
	schemas.compiled[string(schema)] = c
	return c, nil
}

// explain lists the innermost causes, at most three.
func explain(e *jsonschema.ValidationError) string {
	english := message.NewPrinter(language.English)
	var causes []string
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			causes = append(causes, fmt.Sprintf("at '/%s': %s", strings.Join(e.InstanceLocation, "/"), e.ErrorKind.LocalizedString(english)))
		}
		for _, c := range e.Causes {
			walk(c)
		}
	}
	walk(e)
	if len(causes) > 3 {
		causes = append(causes[:3], "…")
	}
	return strings.Join(causes, "; ")
}

package http

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/workflow"
)

// OpenAPI returns the OpenAPI 3.1 description of the API as YAML. It needs no
// running service.
func OpenAPI() ([]byte, error) {
	s, err := newServer(Config{})
	if err != nil {
		return nil, err
	}
	return s.spec.yaml, nil
}

// description is the description of the API in both forms it is served in.
type description struct{ json, yaml []byte }

func (s *Server) describe() (err error) {
	if s.spec.json, err = json.Marshal(s.api.OpenAPI()); err != nil {
		return fmt.Errorf("http: describe the API: %w", err)
	}
	if s.spec.yaml, err = s.api.OpenAPI().YAML(); err != nil {
		return fmt.Errorf("http: describe the API: %w", err)
	}
	return nil
}

const apiText = `The REST API of the SparkOps control plane.

Keys of bodies and query parameters are accepted in camelCase and in snake_case; answers are in camelCase, those of
/auth in snake_case. Unknown keys are ignored, null clears an optional field, and updates are partial.

Every write waits until lists and details show it. Every error is a problem document with a stable code.
X-Event-Position of a write can be sent as X-Min-Position with a read on another node.`

func apiConfig() huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	for _, alias := range []struct{ from, to reflect.Type }{
		{reflect.TypeFor[domain.Optional[string]](), reflect.TypeFor[*string]()},
		{reflect.TypeFor[domain.Optional[int]](), reflect.TypeFor[*int]()},
		{reflect.TypeFor[domain.Optional[[]string]](), reflect.TypeFor[[]string]()},
		{reflect.TypeFor[domain.Optional[json.RawMessage]](), reflect.TypeFor[freeForm]()},
		{reflect.TypeFor[workflow.Duration](), reflect.TypeFor[span]()},
	} {
		registry.RegisterTypeAlias(alias.from, alias.to)
	}
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "SparkOps control plane", Version: apiVersion, Description: apiText,
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "access_token of POST /auth/login."},
					"apiKey": {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "A key of POST /api-keys. A bearer token counts where both are sent."},
				},
			},
			Tags: tags(),
		},
		Formats:       huma.DefaultFormats,
		DefaultFormat: "application/json",
	}
	config.AllowAdditionalPropertiesByDefault = true
	return config
}

// apiVersion is the version of the API, not of the program.
const apiVersion = "1.0.0"

func tags() []*huma.Tag {
	return []*huma.Tag{
		{Name: "auth", Description: "Accounts and logins."},
		{Name: "users", Description: "Administration of accounts."},
		{Name: "api keys", Description: "Credentials of programs."},
		{Name: "projects", Description: "What everything else belongs to, and who sees it."},
		{Name: "agents", Description: "Definitions of agents."},
		{Name: "tools", Description: "What agents and workflows call."},
		{Name: "workflows", Description: "Graphs of steps, in immutable versions."},
		{Name: "runs", Description: "Carried-out workflows."},
		{Name: "history", Description: "What happened in a run, event by event, and the run at any moment of it."},
		{Name: "operations", Description: "Health, readiness, metrics, read models."},
	}
}

// schemaName names a schema after its Go type. Types of other packages than
// the views and this one get the package in front, unless they have it already.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	path := t.PkgPath()
	pkg := path[strings.LastIndexByte(path, '/')+1:]
	if t.Name() == "" || pkg == "" || pkg == "http" || pkg == "readmodels" || pkg == "domain" || strings.HasPrefix(strings.ToLower(name), pkg) {
		return name
	}
	return string(unicode.ToUpper(rune(pkg[0]))) + pkg[1:] + name
}

// freeForm is an object whose inside is the caller's matter.
type freeForm struct{}

func (freeForm) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Description: "Free-form object; its keys are kept as they are."}
}

// span is a duration in a workflow definition.
type span struct{}

func (span) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		OneOf:       []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeNumber}},
		Description: "A duration such as 30s or 1h30m, or a number of seconds.",
		Examples:    []any{"30s"},
	}
}

package main

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/catalog"
	"github.com/sparkops/control-plane/http"
)

func openapiCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "openapi",
		Short: "Print the OpenAPI 3.1 description of the REST API as YAML",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := http.OpenAPI()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(spec)
			return err
		},
	}
}

func docsCommand() *cobra.Command {
	docs := &cobra.Command{Use: "docs", Short: "Print generated documentation", Hidden: true}
	generators := []struct {
		name, short string
		render      func() string
	}{
		{"events", "the event catalogue (docs/events.md)", func() string { return eventCatalogue(catalog.Registry()) }},
		{"env", "every setting with its default (.env.example)", envExample},
		{"config", "every setting as a Markdown table", configTable},
	}
	for _, g := range generators {
		docs.AddCommand(&cobra.Command{
			Use: g.name, Short: g.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprint(cmd.OutOrStdout(), g.render())
				return err
			},
		})
	}
	return docs
}

// eventCatalogue renders every stored event with its fields and JSON types.
func eventCatalogue(r *domain.Registry) string {
	var b strings.Builder
	b.WriteString(`# Event catalogue

Generated from the registry by ` + "`make generate`" + `. Every change of the system is one
of these events, appended to the stream ` + "`<category>-<id>`" + ` of EventStoreDB. Stored
names and JSON keys are for ever; a new shape gets a new stored name and an
upcaster. The custom metadata of each event holds ` + "`$correlationId`, `$causationId`,\n`commandId`, `actor`, `projectId` and `at`" + `.
`)
	byRoom := map[string][]string{}
	var roomNames []string
	for _, name := range r.Names() {
		room := "upcast only"
		if t, ok := r.Type(name); ok {
			room = t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:]
		}
		if _, seen := byRoom[room]; !seen {
			roomNames = append(roomNames, room)
		}
		byRoom[room] = append(byRoom[room], name)
	}
	for _, room := range roomNames {
		fmt.Fprintf(&b, "\n## %s\n", room)
		for _, name := range byRoom[room] {
			t, ok := r.Type(name)
			if !ok {
				target, _ := r.UpcastTarget(name)
				fmt.Fprintf(&b, "\n### %s\n\nRead as %s.\n", name, target)
				continue
			}
			fmt.Fprintf(&b, "\n### %s\n\n", name)
			if t.NumField() == 0 {
				b.WriteString("No fields.\n")
				continue
			}
			b.WriteString("| key | type |\n|---|---|\n")
			for i := range t.NumField() {
				key, optional := jsonKey(t.Field(i))
				fmt.Fprintf(&b, "| `%s`%s | %s |\n", key, optional, jsonType(t.Field(i).Type))
			}
		}
	}
	return b.String()
}

func jsonKey(f reflect.StructField) (key, optional string) {
	key, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	if strings.Contains(options, "omit") {
		optional = " (optional)"
	}
	return key, optional
}

func jsonType(t reflect.Type) string {
	switch t.String() {
	case "time.Time", "*time.Time":
		return "time (RFC 3339, UTC)"
	case "json.RawMessage":
		return "any JSON"
	case "time.Duration":
		return "integer, nanoseconds"
	case "domain.Nanos":
		return "integer, nano-USD"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return jsonType(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array of " + jsonType(t.Elem())
	case reflect.Map:
		return "object of " + jsonType(t.Elem())
	default:
		return "object " + t.Name()
	}
}

package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/sparkops/control-plane/"

// rooms lists, for each folder, which rooms of ours it may import. A rule
// covers everything below its folder unless a longer rule exists; a room may
// always import itself. A folder without a rule fails the test, so a new room
// is always a decision.
var rooms = map[string][]string{
	"domain":                     {},
	"eventstore":                 {"domain"},
	"eventstore/embedded":        {},
	"eventstore/pubsub":          {"domain", "eventstore"},
	"readmodels":                 {"domain"},
	"readmodels/postgres":        {},
	"readmodels/postgres/pgtest": {"readmodels/postgres"},
	"readmodels/vault":           {},
	"commands":                   {"domain", "eventstore", "readmodels", "readmodels/vault", "commands/expr"},
	"commands/expr":              {"domain"},
	"projections":                {"domain", "eventstore", "readmodels"},
	"processes":                  {"domain", "eventstore", "eventstore/pubsub", "commands", "readmodels"},
	"worker":                     {"domain", "commands"},
	"http":                       {"domain", "commands", "readmodels", "projections", "web"},
	"web":                        {},
	"cmd":                        {"domain", "eventstore", "eventstore/pubsub", "eventstore/embedded", "readmodels", "readmodels/postgres", "readmodels/vault", "commands", "commands/expr", "projections", "processes", "worker", "http", "web"},
}

// forbidden lists imports of others that a room must not use.
var forbidden = map[string][]string{
	"domain": {"net", "os", "database/sql", "log", "log/slog", "math/rand", "crypto/rand", "github.com/", "google.golang.org/", "golang.org/"},
}

// fixtures are the rooms that a test outside domain may import besides: the
// real store and database that tests run against, and what fills them.
var fixtures = []string{"eventstore", "eventstore/embedded", "readmodels", "readmodels/postgres/pgtest", "readmodels/vault", "projections", "commands", "commands/expr", "domain"}

func TestImportDirection(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	files := token.NewFileSet()
	walk(t, root, func(path, dir string) {
		f, err := parser.ParseFile(files, path, nil, parser.ImportsOnly)
		require.NoError(t, err)
		room, ok := roomOf(dir)
		if !ok {
			t.Errorf("%s: the folder %s has no rule in this test", path, dir)
			return
		}
		isTest := strings.HasSuffix(path, "_test.go")
		allowed := append([]string{room}, rooms[room]...)
		if isTest && room != "domain" {
			allowed = append(allowed, fixtures...)
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if ours, ok := strings.CutPrefix(imported, module); ok {
				if target, known := roomOf(ours); !known || !slices.Contains(allowed, target) {
					t.Errorf("%s: %s must not import %s", files.Position(spec.Pos()), room, ours)
				}
				continue
			}
			if isTest {
				continue
			}
			for _, bad := range forbidden[room] {
				if imported == bad || strings.HasSuffix(bad, "/") && strings.HasPrefix(imported, bad) {
					t.Errorf("%s: %s must not import %s", files.Position(spec.Pos()), room, imported)
				}
			}
		}
	})
}

func TestPackageComments(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	files := token.NewFileSet()
	commented := map[string]bool{}
	walk(t, root, func(path, dir string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(files, path, nil, parser.PackageClauseOnly|parser.ParseComments)
		require.NoError(t, err)
		commented[dir] = commented[dir] || f.Doc != nil
	})
	for dir, ok := range commented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func walk(t *testing.T, root string, visit func(path, dir string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "data" || name == "bin" || name == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		visit(path, filepath.ToSlash(dir))
		return nil
	})
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(root, "go.mod"))
	require.NoError(t, err, "the test must walk the module's root")
}

// roomOf returns the longest rule that covers a folder.
func roomOf(dir string) (string, bool) {
	for d := dir; d != "." && d != ""; {
		if _, ok := rooms[d]; ok {
			return d, true
		}
		i := strings.LastIndexByte(d, '/')
		if i < 0 {
			return "", false
		}
		d = d[:i]
	}
	return "", false
}

// Package mcpaudit_test holds what is true of the whole tree: which package may
// import which, and that what is generated is what its source gives today.
package mcpaudit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/mcpaudit/mcpaudit/"

// rooms are the folders in the order in which imports run: a package may import
// its own room and those before it, never one behind it. dashboards imports nothing.
var rooms = []string{"dashboards", "proto", "ingest", "detect", "query", "internal", "cmd"}

// pure packages do no I/O and never ask for the time; the values are what else
// they may import of ours.
var pure = map[string][]string{
	"ingest/rowbinary":    {},
	"ingest/event":        {"ingest/rowbinary"},
	"ingest/redact":       {"ingest/event"},
	"ingest/ledger":       {"ingest/rowbinary"},
	"ingest/anchor/notes": {"ingest/ledger"},
	"detect":              {"ingest/event"},
	"detect/rules":        {"detect", "ingest/event"},
}

// ioPackages are those that a pure package may not import.
var ioPackages = []string{"database/sql", "io/fs", "log", "log/slog", "net", "net/http", "os", "os/exec", "path/filepath", "syscall"}

// source is one Go file, not a test.
type source struct {
	path, folder string
	imports      []string
	calls        []string // selectors such as time.Now
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		s := source{path: path, folder: filepath.ToSlash(filepath.Dir(path))}
		for _, i := range file.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, name)
		}
		s.calls = selectors(file)
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("only %d files were found", len(out))
	}
	return out
}

// selectors are the uses of what a package exports, such as time.Now.
func selectors(file *ast.File) []string {
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok {
				out = append(out, x.Name+"."+s.Sel.Name)
			}
		}
		return true
	})
	return out
}

func TestImportsRunOneWay(t *testing.T) {
	for _, s := range sources(t) {
		room, _, _ := strings.Cut(s.folder, "/")
		from := slices.Index(rooms, room)
		if from < 0 {
			t.Errorf("%s: %q is not a room of this house; add it to the order of imports", s.path, room)
			continue
		}
		for _, i := range s.imports {
			name, ours := strings.CutPrefix(i, module)
			if !ours {
				continue
			}
			room, _, _ := strings.Cut(name, "/")
			if to := slices.Index(rooms, room); to < 0 || to > from {
				t.Errorf("%s imports %s: imports run %s", s.path, name, strings.Join(rooms, " ← "))
			}
		}
	}
}

func TestPurePackagesDoNoIO(t *testing.T) {
	found := map[string]bool{}
	for _, s := range sources(t) {
		allowed, isPure := pure[s.folder]
		if !isPure {
			continue
		}
		found[s.folder] = true
		for _, i := range s.imports {
			name, ours := strings.CutPrefix(i, module)
			switch {
			case ours && !slices.Contains(allowed, name):
				t.Errorf("%s imports %s; %s may import %v of ours", s.path, name, s.folder, allowed)
			case !ours && slices.Contains(ioPackages, i):
				t.Errorf("%s imports %s, and %s does no I/O", s.path, i, s.folder)
			case !ours && s.folder == "ingest/event" && strings.Contains(strings.Split(i, "/")[0], "."):
				t.Errorf("%s imports %s; the event needs the standard library alone", s.path, i)
			}
		}
		for _, c := range s.calls {
			if c == "time.Now" || c == "time.Since" || c == "time.Until" {
				t.Errorf("%s uses %s; pure packages are given the time", s.path, c)
			}
		}
	}
	for _, folder := range []string{"ingest/event", "ingest/redact"} {
		if !found[folder] {
			t.Errorf("no file of %s was looked at", folder)
		}
	}
}

// A stdio MCP server's output is the protocol: what a server imports or is
// wrapped by may not print.
func TestNothingInAServerPrints(t *testing.T) {
	for _, s := range sources(t) {
		if !strings.HasPrefix(s.folder, "ingest/") || s.folder == "ingest/redact/rulegen" {
			continue
		}
		for _, c := range s.calls {
			if c == "os.Stdout" || strings.HasPrefix(c, "fmt.Print") {
				t.Errorf("%s uses %s", s.path, c)
			}
		}
	}
}

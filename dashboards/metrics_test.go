package dashboards_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// metricsOfTheProgram are the metrics that the sources of the service define, with
// their labels: option literals with a Name that begins with ours, and the list of texts
// beside them.
func metricsOfTheProgram(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, room := range []string{"ingest", "detect", "query", "internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", room), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(text), `"mcpaudit_`) {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && len(call.Args) > 0 {
					if name := nameOf(call.Args[0]); name != "" {
						found[name] = append(found[name], textsIn(call.Args[1:])...)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 20 {
		t.Fatalf("only %d metrics were found", len(found))
	}
	return found
}

// nameOf is the name in an option literal of a metric.
func nameOf(e ast.Expr) string {
	options, ok := e.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	for _, element := range options.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if key, ok := pair.Key.(*ast.Ident); ok && key.Name == "Name" {
			if name := text(pair.Value); strings.HasPrefix(name, "mcpaudit_") {
				return name
			}
		}
	}
	return ""
}

func textsIn(args []ast.Expr) (out []string) {
	for _, a := range args {
		ast.Inspect(a, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok && text(e) != "" {
				out = append(out, text(e))
			}
			return true
		})
	}
	return out
}

func text(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}

// ofTheRuntime are those of client_golang's collectors of Go and of the process.
var ofTheRuntime = []string{"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "go_memstats_heap_inuse_bytes", "go_goroutines"}

var (
	quoted   = regexp.MustCompile(`"[^"]*"`)
	grouping = regexp.MustCompile(`\b(?:by|on|without) \(([^)]*)\)`)
	word     = regexp.MustCompile(`[a-z][a-z_0-9]*`)
	// notMetrics are the functions, operators and labels that expressions use.
	notMetrics = strings.Fields("sum max count rate increase histogram_quantile and by on instance result")
)

func TestEveryMetricExists(t *testing.T) {
	known := metricsOfTheProgram(t)
	asked := 0
	for _, f := range load(t) {
		for i := range f.Panels {
			for _, q := range f.Panels[i].Targets {
				if q.Expr == "" {
					continue
				}
				say := func(what string) { t.Errorf("%s, %q: %s: %s", f.name, f.Panels[i].Title, q.Expr, what) }
				if strings.Count(q.Expr, "(") != strings.Count(q.Expr, ")") || strings.Count(q.Expr, "{") != strings.Count(q.Expr, "}") {
					say("brackets are not closed")
				}
				rest := quoted.ReplaceAllString(strings.ReplaceAll(q.Expr, "$__rate_interval", ""), "")
				labels := grouping.FindAllStringSubmatch(rest, -1)
				var metrics []string
				for _, name := range word.FindAllString(grouping.ReplaceAllString(rest, ""), -1) {
					if slices.Contains(notMetrics, name) {
						continue
					}
					asked++
					if slices.Contains(ofTheRuntime, name) {
						continue
					}
					for _, suffix := range []string{"_bucket", "_sum", "_count"} {
						name = strings.TrimSuffix(name, suffix)
					}
					if _, ok := known[name]; !ok {
						say("there is no metric " + name)
					}
					metrics = append(metrics, name)
				}
				for _, list := range labels {
					for _, label := range word.FindAllString(list[1], -1) {
						if label == "instance" || label == "le" {
							continue
						}
						if !slices.ContainsFunc(metrics, func(m string) bool { return slices.Contains(known[m], label) }) {
							say("none of " + strings.Join(metrics, ", ") + " has the label " + label)
						}
					}
				}
			}
		}
	}
	if asked < 40 {
		t.Errorf("only %d metrics are asked for", asked)
	}
}

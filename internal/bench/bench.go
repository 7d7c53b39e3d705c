// Package bench measures mcpaudit beside its physical limits: each figure comes
// with what the same machine, in the same run, can do at best.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is one figure.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Limit is what the machine can do at best, in the same unit; Limit's meaning
	// is in Of. 0 when the figure has none.
	Limit float64 `json:"limit,omitempty"`
	Of    string  `json:"limit_of,omitempty"`
	Ratio float64 `json:"ratio,omitempty"` // Value / Limit
	Goal  float64 `json:"goal,omitempty"`
	OK    bool    `json:"ok"`
}

// Env is what a benchmark works with.
type Env struct {
	Library string        // libchdb
	Dir     string        // an empty folder; the benchmark leaves nothing else behind
	Data    string        // a folder whose contents the next run may use again
	Events  uint64        // how many events to search
	Time    time.Duration // how long to measure
	Self    string        // path of the mcpaudit program
	Brokers []string      // of Kafka, host:port
	Log     *slog.Logger
	Say     io.Writer // progress, for people
	Now     func() time.Time
}

// Names are the benchmarks that Run knows.
var Names = []string{"ack", "detect", "emit", "export", "ingest", "kafka", "redact", "search", "size", "verify", "wrap"}

// Run runs one benchmark.
func Run(ctx context.Context, name string, e Env) ([]Result, error) {
	run, ok := map[string]func(context.Context, Env) ([]Result, error){
		"ack": ack, "detect": detection, "emit": emitted, "export": exported, "ingest": ingestRate, "kafka": fromKafka, "redact": redaction, "search": searched, "size": size, "verify": verified, "wrap": wrapped,
	}[name]
	if !ok {
		return nil, fmt.Errorf("there is no benchmark %q; there are %s", name, strings.Join(Names, ", "))
	}
	results, err := run(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("bench %s: %w", name, err)
	}
	return results, nil
}

// atLeast and atMost judge a figure by its goal.
func atLeast(name string, value float64, unit string, limit float64, of string, goal float64) Result {
	return finish(Result{Name: name, Value: value, Unit: unit, Limit: limit, Of: of, Goal: goal, OK: value >= goal})
}

func atMost(name string, value float64, unit string, limit float64, of string, goal float64) Result {
	return finish(Result{Name: name, Value: value, Unit: unit, Limit: limit, Of: of, Goal: goal, OK: value <= goal})
}

// plain is a figure without a goal.
func plain(name string, value float64, unit string) Result {
	return Result{Name: name, Value: value, Unit: unit, OK: true}
}

func finish(r Result) Result {
	if r.Limit != 0 {
		r.Ratio = r.Value / r.Limit
	}
	return r
}

// Print writes results as a table, or one JSON object a line.
func Print(w io.Writer, asJSON bool, results []Result) error {
	if asJSON {
		enc := json.NewEncoder(w)
		for _, r := range results {
			if err := enc.Encode(r); err != nil {
				return fmt.Errorf("print results: %w", err)
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tvalue\tgoal\tlimit\tratio\t\t")
	for _, r := range results {
		goal, limit, ratio, verdict := "", "", "", ""
		if r.Goal != 0 {
			goal, verdict = number(r.Goal), "ok"
			if !r.OK {
				verdict = "NOT REACHED"
			}
		}
		if r.Limit != 0 {
			limit, ratio = number(r.Limit), fmt.Sprintf("%.2f", r.Ratio)
		}
		of := ""
		if r.Of != "" {
			of = "limit: " + r.Of
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s\t%s\t %s\n", r.Name, number(r.Value), r.Unit, goal, limit, ratio, verdict, of)
	}
	return t.Flush()
}

func number(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// quantile of measured times, 0 ≤ q ≤ 1. It sorts them.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(int(q*float64(len(ds))), len(ds)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }
func microseconds(d time.Duration) float64 { return float64(d) / 1e3 }

// residentBytes is the memory of this process: mcpaudit, the engine in it and
// the load generator.
func residentBytes() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb * 1024
		}
	}
	return 0
}

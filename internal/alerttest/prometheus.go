package alerttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// PrometheusServer is a real Prometheus.
type PrometheusServer struct{ *Server }

// Prometheus starts one with a configuration (prometheus.yml), whose files have
// absolute names or are of the folder that the test runs in.
func Prometheus(t testing.TB, config string) *PrometheusServer {
	t.Helper()
	server, tool := program(t, "prometheus"), program(t, "promtool")
	dir := t.TempDir()
	s := start(t, "prometheus", dir, config,
		func(file string) *exec.Cmd { return exec.Command(tool, "check", "config", file) },
		func(file, address string) *exec.Cmd {
			return exec.Command(server, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
				"--web.listen-address="+address, "--log.level=info")
		})
	return &PrometheusServer{Server: s}
}

// Sample is one element of an instant vector.
type Sample struct {
	Labels map[string]string // __name__ among them
	Value  float64
}

// Query evaluates an expression now; its value has to be an instant vector.
func (p *PrometheusServer) Query(expression string) []Sample {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := p.query(ctx, expression)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// Await waits until an expression has elements, and returns them.
func (p *PrometheusServer) Await(expression string) []Sample {
	p.t.Helper()
	var out []Sample
	err := p.await("has "+expression, func(ctx context.Context) (err error) {
		if out, err = p.query(ctx, expression); err == nil && len(out) == 0 {
			err = errors.New("it has none")
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// query uses Prometheus's HTTP API
// (https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries).
func (p *PrometheusServer) query(ctx context.Context, expression string) ([]Sample, error) {
	var out []Sample
	err := p.get(ctx, "/api/v1/query?"+url.Values{"query": {expression}}.Encode(), func(body []byte) error {
		var answer struct {
			Data struct {
				ResultType string
				Result     json.RawMessage
			}
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("read what prometheus answers to %q: %w", expression, err)
		}
		if answer.Data.ResultType != "vector" {
			return fmt.Errorf("evaluate %q: it is a %s, not an instant vector", expression, answer.Data.ResultType)
		}
		var vector []struct {
			Metric map[string]string
			Value  [2]any // seconds since 1970, and a number as text
		}
		if err := json.Unmarshal(answer.Data.Result, &vector); err != nil {
			return fmt.Errorf("read what prometheus answers to %q: %w", expression, err)
		}
		for _, v := range vector {
			text, _ := v.Value[1].(string)
			number, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return fmt.Errorf("read a value of %q: %w", expression, err)
			}
			out = append(out, Sample{Labels: v.Metric, Value: number})
		}
		return nil
	})
	return out, err
}

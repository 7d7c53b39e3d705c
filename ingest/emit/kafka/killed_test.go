package kafka_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/emit/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

// progress is what a process that will be killed says of its emitter.
type progress struct {
	ID     string
	Stored uint64 // in the spool or delivered
}

// Processes of one name emit at the same time and are killed with SIGKILL, again and
// again. What was in their spools comes through whoever is next, each number once or
// more, none left out.
func TestPromise1KilledEmittersLoseNothingThatWasSpooled(t *testing.T) {
	if url := os.Getenv("EMIT_TEST_TOPIC"); url != "" {
		emitUntilKilled(t, url, os.Getenv("EMIT_TEST_SPOOL"))
		return
	}
	c := kafkatest.Shared(t, 1)
	topic := c.NewTopic(3)
	spool := t.TempDir()
	stored := map[string]uint64{}
	for range 3 {
		var running []*exec.Cmd
		var lines []*bufio.Scanner
		for range 2 {
			cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
			cmd.Env = append(os.Environ(), "EMIT_TEST_TOPIC="+transport(t, c, topic).String(), "EMIT_TEST_SPOOL="+spool)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			running, lines = append(running, cmd), append(lines, bufio.NewScanner(out))
		}
		for _, l := range lines {
			for n := 0; n < 10 && l.Scan(); n++ {
				var p progress
				if json.Unmarshal(l.Bytes(), &p) == nil && p.ID != "" {
					stored[p.ID] = max(stored[p.ID], p.Stored)
				}
			}
		}
		for _, cmd := range running {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	if len(stored) < 2 {
		t.Fatalf("emitters of %v", stored)
	}
	e, _ := open(t, transport(t, c, topic), spool)
	for id, n := range stored {
		rpctest.Eventually(t, "everything that was spooled has come", func() bool {
			of, _ := sequences(t, c, topic)
			return uint64(len(of[id])) >= n
		})
	}
	mustClose(t, e, 0)
	of, _ := sequences(t, c, topic)
	for id := range stored {
		wantDense(t, c, topic, id, len(of[id]))
	}
}

func emitUntilKilled(t *testing.T, url, spool string) {
	to, err := kafka.Open(url, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := open(t, to, spool)
	for n := 0; ; n++ {
		if err := e.Send(t.Context(), call(fmt.Sprintf(`{"n":%d}`, n))); err != nil {
			t.Fatal(err)
		}
		if n%50 == 0 {
			if err := e.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			line, err := json.Marshal(progress{e.ID(), uint64(n + 1)})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("%s\n", line)
		}
	}
}

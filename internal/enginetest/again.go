package enginetest

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// onServer in the environment tells a test's binary that its stores are on a server.
const onServer = "TEST_STORES_ON_A_SERVER"

// Again runs tests of the calling test's package once more, in a process in which
// stores are on a server, and fails when one of them does. run and skip are patterns
// as -test.run and -test.skip have them; the second may be empty.
// The package has its stores opened there with
//
//	func init() { storetest.Server = enginetest.Databases() }
func Again(t *testing.T, run, skip string) {
	t.Helper()
	if os.Getenv(onServer) != "" {
		t.Skip("this process is the other one")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limit := 5 * time.Minute
	if deadline, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run="+run, "-test.skip="+skip, "-test.v", "-test.timeout="+limit.String())
	cmd.Env = append(os.Environ(), onServer+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on a server: %v\n%s", err, tell(out))
	}
	if passed := bytes.Count(out, []byte("--- PASS")); passed == 0 {
		t.Errorf("no test of %q passed on a server:\n%s", run, out)
	}
}

// tell leaves out what went well.
func tell(out []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		switch strings.Fields(line + " .")[0] {
		case "===", ".":
			continue
		}
		if !strings.Contains(line, "--- PASS") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Databases is what storetest.Server is to be: nil when stores are in process, else
// a function that makes each data folder a database of one server, which lasts as long
// as the process. The same folder is the same database.
func Databases() func(t testing.TB, dir string) (dsn string) {
	if os.Getenv(onServer) == "" {
		return nil
	}
	var mu sync.Mutex
	var server *Server
	var made atomic.Int32
	known := map[string]string{}
	return func(t testing.TB, dir string) string {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if server == nil {
			home, err := os.MkdirTemp("", "engine-of-tests-")
			if err != nil {
				t.Fatal(err)
			}
			// The data outlive this test; the server's process removes them when it has
			// outlived ours.
			server = start(t, Path(filepath.Join(home, "data")), Connections(64), func(o *order) { o.Remove = home })
		}
		name, ok := known[dir]
		if !ok {
			name = "d" + strconv.Itoa(int(made.Add(1)))
			server.run(t, "CREATE DATABASE "+name)
			known[dir] = name
			t.Cleanup(func() {
				mu.Lock()
				defer mu.Unlock()
				delete(known, dir)
				server.run(t, "DROP DATABASE "+name+" SYNC")
			})
		}
		return strings.TrimSuffix(server.DSN(), "/default") + "/" + name
	}
}

// run runs a statement on the server, as its user.
func (s *Server) run(t testing.TB, sql string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+s.Address(), strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, s.Password())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", sql, resp.Status)
	}
}

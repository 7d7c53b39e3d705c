package anchor_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest/anchor"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

// checkpoints are signed checkpoints of a log of sizes 1 to n.
func checkpoints(t testing.TB, n int) []string {
	t.Helper()
	k, _, err := ledger.NewKey(rand.Reader, "log-1")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for size := range n {
		c, err := ledger.Checkpoint{LogID: "log-1", Size: uint64(size + 1), Root: ledger.Leaf([]byte{byte(size)})}.Sign(k)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func open(t *testing.T, spec string) anchor.Sink {
	t.Helper()
	s, err := anchor.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustPut(t *testing.T, spec string, checkpoints ...string) {
	t.Helper()
	for _, c := range checkpoints {
		if err := open(t, spec).Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, spec string) ([]string, error) {
	t.Helper()
	var out []string
	err := anchor.Each(t.Context(), spec, func(c string) error { out = append(out, c); return nil })
	return out, err
}

func wantRead(t *testing.T, spec string, want []string) {
	t.Helper()
	got, err := read(t, spec)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %d checkpoints, want %d: %q", err, len(got), len(want), got)
	}
}

func TestPlacesThatAreNoneAreRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"":                               "no place is named",
		"file://anchors":                 "three slashes",
		"ftp://example.org/a":            "no anchors at ftp://",
		"http://":                        "it is no URL",
		"kafka://broker/topic":           "not HOST:PORT",
		"kafka://a:9092,b/topic":         "not HOST:PORT",
		"kafka://a:9092":                 "no topic",
		"kafka://a:9092/one/more":        "no topic",
		"kafka://me:word@a:9092/topic":   "don't belong into the URL",
		"kafka://a:9092/topic?retries=3": "no parameter",
		"kafkas://a:9092/topic?mechanism=PLAIN&user=audit": "set MCPAUDIT_KAFKA_PASSWORD",
	} {
		if _, err := anchor.Open(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", spec, err, want)
		}
	}
}

func TestAPlaceIsNamedWithoutItsCredentials(t *testing.T) {
	spec := "https://user:word@127.0.0.1:1/anchors?token=secret"
	s := open(t, spec)
	if s.String() != "https://127.0.0.1:1/anchors" {
		t.Error(s)
	}
	t.Setenv("MCPAUDIT_KAFKA_PASSWORD", "word")
	if s := open(t, "kafkas://127.0.0.1:1/anchors?mechanism=SCRAM-SHA-512&user=audit"); s.String() != "kafkas://127.0.0.1:1/anchors" {
		t.Error(s)
	}
	_, readErr := read(t, spec)
	for _, err := range []error{s.Put(t.Context(), checkpoints(t, 1)[0]), readErr} {
		if err == nil || strings.Contains(err.Error(), "word") || strings.Contains(err.Error(), "secret") {
			t.Errorf("an error says %v", err)
		}
	}
}

func TestAFileKeepsAllInOrder(t *testing.T) {
	all := checkpoints(t, 5)
	path := filepath.Join(t.TempDir(), "anchors")
	mustPut(t, path, all[:3]...)
	mustPut(t, "file://"+path, all[3:]...)
	wantRead(t, path, all)
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if got, err := anchor.Parse(in); err != nil || !slices.Equal(got, all) {
		t.Errorf("%v, %q", err, got)
	}
	if info, err := in.Stat(); err != nil || info.Mode().Perm()&0o077 != 0o044 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// A put that was reported to have failed is repeated, and a service that starts
// again puts what it put last.
func TestTheSameCheckpointIsKeptOnce(t *testing.T) {
	all := checkpoints(t, 2)
	path := filepath.Join(t.TempDir(), "anchors")
	mustPut(t, path, all[0], all[0], all[1], all[1])
	wantRead(t, path, all)
	if text, err := os.ReadFile(path); err != nil || strings.Count(string(text), "\n\n—") != 2 {
		t.Errorf("%v: %s", err, text)
	}
}

func TestATornFileIsGoneOnWith(t *testing.T) {
	all := checkpoints(t, 3)
	path := filepath.Join(t.TempDir(), "anchors")
	mustPut(t, path, all[:2]...)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(whole) / 2; n < len(whole); n++ {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(all[:1])
		if n >= len(whole)-2 { // but for its last line's end it is all there
			want = all[:2]
		}
		wantRead(t, path, want)
		mustPut(t, path, all[2])
		wantRead(t, path, append(slices.Clone(want), all[2]))
	}
}

func TestAFileThatCannotBeWrittenIsAnError(t *testing.T) {
	c := checkpoints(t, 1)[0]
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(dir, "locked")
	other, err := os.Create(locked)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                             "is a directory",
		filepath.Join(dir, "no", "dir"): "no such file",
		pipe:                            "not a regular file",
		"/dev/full":                     "not a regular file",
		locked:                          "lock it",
	} {
		err := open(t, path).Put(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), path) != 1 {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := read(t, filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestOnlyCheckpointsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "anchors")
	for _, spec := range []string{path, "http://127.0.0.1:1/", "kafka://127.0.0.1:1/t"} {
		if err := open(t, spec).Put(t.Context(), "no checkpoint\n"); err == nil || !strings.Contains(err.Error(), "not a signed note") {
			t.Errorf("%s: %v", spec, err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was made")
	}
}

// board takes checkpoints by POST and gives them all by GET.
type board struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Method == http.MethodPost && r.Header.Get("Content-Type") == "text/plain; charset=utf-8" {
		body, _ := io.ReadAll(r.Body)
		b.text.Write(append(body, '\n'))
		w.WriteHeader(http.StatusCreated)
		return
	}
	io.WriteString(w, b.text.String())
}

func TestAURLKeepsAll(t *testing.T) {
	all := checkpoints(t, 3)
	mux := http.NewServeMux()
	mux.Handle("/anchors", &board{})
	mux.Handle("/moved", http.RedirectHandler("/anchors", http.StatusPermanentRedirect))
	server := httptest.NewServer(mux)
	defer server.Close()
	mustPut(t, server.URL+"/anchors", all[:2]...)
	mustPut(t, server.URL+"/moved", all[2])
	wantRead(t, server.URL+"/anchors", all)
	wantRead(t, server.URL+"/moved", all)
}

func TestAURLThatDoesNotKeepIsAnError(t *testing.T) {
	c := checkpoints(t, 1)[0]
	elsewhere := httptest.NewServer(&board{})
	defer elsewhere.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.Handle("/other", http.RedirectHandler(elsewhere.URL, http.StatusPermanentRedirect))
	mux.Handle("/get", http.RedirectHandler("/ok", http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusPermanentRedirect))
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/junk", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>\n") })
	server := httptest.NewServer(mux)
	defer server.Close()
	for path, want := range map[string]string{
		"/500": "answered 500", "/other": "another server", "/get": "takes no checkpoint", "/round": "again and again",
	} {
		if err := open(t, server.URL+path).Put(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	for path, want := range map[string]string{"/500": "answered 500", "/other": "another server", "/junk": "no signed checkpoint"} {
		if _, err := read(t, server.URL+path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("reading %s: %v, want %q", path, err, want)
		}
	}
}

func TestAURLThatHangsIsGivenUp(t *testing.T) {
	c := checkpoints(t, 1)[0]
	hang := func(before string) func(t *testing.T) string {
		return func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					io.WriteString(conn, before)
					t.Cleanup(func() { conn.Close() })
				}
			}()
			return "http://" + l.Addr().String() + "/"
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if err := open(t, hang("")(t)).Put(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that does not answer: %v", err)
	}
	err := anchor.Each(ctx, hang("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+c)(t), func(string) error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that stops in the middle: %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// newTopic is a new topic and its URL.
func newTopic(t *testing.T, partitions int) (c *kafkatest.Cluster, topic, url string) {
	t.Helper()
	c = kafkatest.Shared(t, 1)
	topic = c.NewTopic(partitions)
	return c, topic, "kafka://" + strings.Join(c.Brokers(), ",") + "/" + topic
}

func TestATopicKeepsAll(t *testing.T) {
	all := checkpoints(t, 4)
	c, topic, spec := newTopic(t, 3)
	wantRead(t, spec, nil)
	mustPut(t, spec, all...)
	wantRead(t, spec, all)
	for _, m := range c.ReadAll(topic) {
		if string(m.Key) != "log-1" {
			t.Errorf("the key is %q", m.Key)
		}
	}
}

func TestATopicThatDoesNotKeepIsAnError(t *testing.T) {
	checkpoint := checkpoints(t, 1)[0]
	c, topic, junk := newTopic(t, 1)
	none := strings.Replace(junk, "/"+topic, "/no-such-topic", 1)
	if err := open(t, none).Put(t.Context(), checkpoint); !errors.Is(err, kafka.UnknownTopicOrPartition) {
		t.Errorf("a topic that is not there: %v", err)
	}
	if _, err := read(t, none); !errors.Is(err, kafka.UnknownTopicOrPartition) {
		t.Errorf("reading a topic that is not there: %v", err)
	}
	mustPut(t, junk, checkpoint)
	c.Produce(topic, 0, kafka.Message{Value: []byte("junk")})
	if got, err := read(t, junk); err == nil || !strings.Contains(err.Error(), "partition 0: offset 1") || len(got) != 1 {
		t.Errorf("a message that is no checkpoint: %v, %q", err, got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	away := "kafka://127.0.0.1:1/anchors"
	if err := open(t, away).Put(ctx, checkpoint); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("brokers that are away: %v", err)
	}
	if err := anchor.Each(ctx, away, func(string) error { return nil }); err == nil {
		t.Error("brokers that are away are read")
	}
}

// A broker that dies and comes back while a checkpoint is put costs some seconds.
func TestATopicIsWaitedFor(t *testing.T) {
	all := checkpoints(t, 2)
	c, topic, spec := newTopic(t, 1)
	c.NeedReal("kill a broker")
	mustPut(t, spec, all[0])
	c.Kill(c.Leader(topic, 0))
	put := make(chan error)
	go func() { put <- open(t, spec).Put(t.Context(), all[1]) }()
	c.Restart(0)
	if err := <-put; err != nil {
		t.Fatal(err)
	}
	wantRead(t, spec, all)
}

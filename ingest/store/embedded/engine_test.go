package embedded

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestDataOutlivesCloseAndFoldersMayFollowEachOther(t *testing.T) {
	library := libraryPath(t)
	first, second := t.TempDir(), t.TempDir()
	steps := []struct {
		path string
		sql  []string
		want uint64
	}{
		{first, []string{"CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a", "INSERT INTO t VALUES (1), (2)"}, 2},
		{second, []string{"CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a"}, 0},
		{first, nil, 2},
	}
	for i, step := range steps {
		e, err := Open(Config{Library: library, Path: step.path, Connections: 2})
		if err != nil {
			t.Fatal(i, err)
		}
		conn := connect(t, e)
		mustExec(t, conn, step.sql...)
		if got := one[uint64](t, conn, "SELECT count() FROM t"); got != step.want {
			t.Errorf("step %d: %d rows, want %d", i, got, step.want)
		}
		for range 2 {
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Ping(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestASecondFolderIsRefusedWhileOneIsOpen(t *testing.T) {
	e := open(t)
	for _, path := range []string{e.path, t.TempDir()} {
		if _, err := Open(Config{Library: libraryPath(t), Path: path}); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

var lockedFolder = flag.String("locked-folder", "", "for the process that finds a folder locked")

// TestHelperFindsFolderLocked is the other process of the test below it.
func TestHelperFindsFolderLocked(t *testing.T) {
	if *lockedFolder == "" {
		t.Skip("runs only in a process of its own")
	}
	_, err := Open(Config{Library: libraryPath(t), Path: *lockedFolder})
	fmt.Println(errors.Is(err, ErrLocked), err)
}

func TestAnotherProcessFindsTheFolderLocked(t *testing.T) {
	e := open(t)
	out, err := exec.CommandContext(t.Context(), os.Args[0],
		"-test.run=^TestHelperFindsFolderLocked$", "-test.v", "-locked-folder="+e.path).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("true open engine on %q: another process is using this data folder\n", e.path)
	if !strings.Contains(string(out), want) {
		t.Errorf("got %q, want %q in it", out, want)
	}
	// Looking at the lock must not have taken it away.
	if err := connect(t, e).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNilDereferenceStillPanics(t *testing.T) {
	open(t)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	var p *Config
	t.Log(p.Path)
}

func TestMissingEngineIsNamedWithItsRemedy(t *testing.T) {
	empty := t.TempDir()
	if path, err := Locate("", empty); err == nil {
		t.Logf("one is installed system-wide: %s", path)
	} else if !errors.Is(err, ErrNotInstalled) {
		t.Error(err)
	}
	for _, explicit := range []string{empty, filepath.Join(empty, "nothing.so")} {
		_, err := Locate(explicit)
		if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "`mcpaudit engine install`") || !strings.Contains(err.Error(), "MCPAUDIT_ENGINE") {
			t.Errorf("%s: %v", explicit, err)
		}
	}
	library := libraryPath(t)
	if got, err := Locate("", "", empty, filepath.Dir(library)); err != nil || got != library {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Locate(filepath.Dir(library)); err != nil || got != library {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestBadConfigurations(t *testing.T) {
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{Path: "x"}, "embedded engine: library is empty"},
		{Config{Library: "x"}, "embedded engine: path is empty"},
		{Config{Library: "x", Path: "x", Connections: 65}, "embedded engine: connections is 65, and may be 1 to 64"},
		{Config{Library: "x", Path: "x", Settings: map[string]string{"a=1": ""}}, `embedded engine: "a=1" is not the name of a setting`},
	} {
		if _, err := Open(test.config); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

func TestLimitsOfTheConfigurationHold(t *testing.T) {
	conn := connect(t, open(t, func(c *Config) {
		c.MemoryLimit = 700 << 20
		c.Settings = map[string]string{"max_threads": "1", "max_result_rows": "10"}
	}))
	if got := one[uint64](t, conn, "SELECT toUInt64(value) FROM system.server_settings WHERE name = 'max_server_memory_usage'"); got != 700<<20 {
		t.Errorf("memory limit is %d", got)
	}
	if got := one[string](t, conn, "SELECT toString(getSetting('max_threads'))"); got != "1" {
		t.Errorf("max_threads is %s", got)
	}
	err := conn.Exec(t.Context(), "SELECT number FROM numbers(11)")
	wantCode(t, err, 396)
	if got := one[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = 'system' AND name LIKE '%\\_log'"); got != 0 {
		t.Errorf("the engine keeps %d logs of its own", got)
	}
}

func TestNothingOutsideTheFolderIsReached(t *testing.T) {
	conn := connect(t, open(t))
	mustExec(t, conn, "CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
	outside := filepath.Join(t.TempDir(), "outside")
	for _, test := range []struct {
		sql  string
		code int32
	}{
		{"SELECT * FROM file('/etc/passwd', 'LineAsString')", 497},
		{"SELECT * FROM `/etc/passwd`", 497},
		{"SELECT * FROM default.`/etc/passwd`", 497},
		{"INSERT INTO t SELECT * FROM file('/etc/passwd', 'LineAsString')", 497},
		{"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", 497},
		{"SELECT * FROM remote('127.0.0.1:1', 'system.one')", 497},
		{"SELECT * FROM s3('http://127.0.0.1:1/bucket/x', 'TSV', 'a String')", 497},
		{"CREATE TABLE f (a String) ENGINE = File(TSV)", 497},
		{"CREATE TABLE f (a String) ENGINE = URL('http://127.0.0.1:1/', TSV)", 497},
		{"CREATE USER bob", 497},
		{"GRANT READ ON FILE TO default", 497},
		{"CREATE FUNCTION f AS (x) -> x", 497},
		{"SYSTEM SHUTDOWN", 497},
		{"INSERT INTO FUNCTION file('" + outside + "', 'TSV', 'a String') SELECT '1'", codeNotImplemented},
		{"SELECT 1 INTO OUTFILE '" + outside + "'", codeNotImplemented},
		{"SHOW TABLES INTO /* x */ OUTFILE '" + outside + "'", codeNotImplemented},
		{"EXPLAIN SELECT 1 INTO OUTFILE '" + outside + "'", codeNotImplemented},
		{"KILL QUERY WHERE 0 INTO OUTFILE '" + outside + "'", codeNotImplemented},
		{"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString", codeNotImplemented},
		{"/* x */ insert INTO t FROM infile '/etc/passwd' FORMAT LineAsString", codeNotImplemented},
		{"BACKUP TABLE t TO File('" + outside + "')", 0},
		{"SET max_threads = 1", codeNotImplemented},
		{"USE system", codeNotImplemented},
		{"SELECT 1; DROP TABLE t", codeSyntaxError},
		{"DROP TABLE t; nonsense", codeSyntaxError},
		{"SELECT 1; SELECT 'unfinished", codeSyntaxError},
	} {
		err := conn.Exec(t.Context(), test.sql)
		if test.code == 0 {
			if err == nil {
				t.Errorf("%s: was allowed", test.sql)
			}
			continue
		}
		t.Run(test.sql, func(t *testing.T) { wantCode(t, err, test.code) })
	}
	if _, err := os.Stat(outside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", outside, err)
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 0 {
		t.Errorf("t has %d rows", got)
	}
}

func TestWaitingForAConnectionEndsWithTheContext(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 1 })
	held, err := e.acquire(t.Context(), false, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if _, err := e.acquire(ctx, false, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	cancel()
	waiting.Wait()
	e.release(held)
	if err := connect(t, e).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

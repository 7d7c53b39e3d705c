package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal makes a terminal of so many columns (pty(7)): what is written to
// it is read from the other end.
func openTerminal(t *testing.T, columns uint16) (terminal, other *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	t.Cleanup(func() { other.Close() })
	fd := int(other.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return terminal, other
}

// onTerminal runs a command whose output is a terminal.
func onTerminal(t *testing.T, columns uint16, args ...string) result {
	t.Helper()
	terminal, other := openTerminal(t, columns)
	var errs, out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&out, other) // ends with EIO when nobody has the terminal open
	}()
	code := run(t.Context(), args, strings.NewReader(""), terminal, &errs)
	terminal.Close()
	<-read
	return result{code, strings.ReplaceAll(out.String(), "\r\n", "\n"), errs.String()}
}

func TestATerminalHasColourAndLinesThatFit(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	denied := sent("e", 1)
	denied.Outcome, denied.Target, denied.Arguments = "denied", strings.Repeat("long_name_", 8), `{"a":"`+strings.Repeat("日本", 100)+`"}`
	publish(t, address, denied, sent("e", 2))
	t.Setenv("TERM", "xterm")
	for _, c := range []struct {
		noColour, term string
		flags          []string
		want           bool
	}{{"", "xterm", nil, true}, {"1", "xterm", nil, false}, {"", "dumb", nil, false}, {"", "xterm", []string{"--color", "never"}, false}, {"1", "dumb", []string{"--color=always"}, true}} {
		t.Setenv("NO_COLOR", c.noColour)
		t.Setenv("TERM", c.term)
		r := onTerminal(t, 100, append([]string{"events", "list", "--service", address}, c.flags...)...)
		if r.status != 0 || strings.Contains(r.stdout, "\x1b[1;31mdenied\x1b[0m") != c.want || strings.Contains(r.stdout, "\x1b") != c.want {
			t.Errorf("NO_COLOR=%q TERM=%s %v: %+v", c.noColour, c.term, c.flags, r)
		}
	}
	for _, columns := range []uint16{90, 100, 160, 300} {
		r := onTerminal(t, columns, "events", "list", "--color", "never", "--service", address)
		widest := 0
		for line := range strings.Lines(r.stdout) {
			widest = max(widest, textWidth(strings.TrimSuffix(line, "\n")))
		}
		if r.status != 0 || widest > int(columns) || columns <= 160 && widest < int(columns)-1 {
			t.Errorf("%d columns, and the widest line has %d:\n%s", columns, widest, r.stdout)
		}
	}
	r := onTerminal(t, 100, "events", "list", "-n", "1", "--service", address)
	if r.stderr != "mcpaudit: there are more; list them with --limit\n" {
		t.Errorf("%+v", r)
	}
}

func TestAReplayIsATableOnATerminalAndJSONElsewhere(t *testing.T) {
	file := writeFile(t, "events.jsonl", asLines(t, looping(1, 15, "one", time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC))...))
	args := []string{"rules", "replay", "--input", file, "--only", "agent-loop"}
	r := onTerminal(t, 160, append(args, "--color", "never")...)
	if r.status != 0 || r.stderr != "" || !regexp.MustCompile(`^SEVERITY +STARTED \(\S+\) +EVENTS +RULE +REASON\nmedium +\S.* +\d+ +agent-loop +"agent:one" goes round in circles[^\n]*\n$`).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
	if got, want := onTerminal(t, 160, append(args, "--json")...).stdout, succeed(t, args...); got != want || !strings.HasPrefix(got, "{") {
		t.Errorf("--json on a terminal: %s\nwant %s", got, want)
	}
}

package wrap

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is the wrapped command with the ends of its pipes.
type server struct {
	cmd *exec.Cmd
	in  *os.File // what it reads is written here
	out *os.File // what it writes is read here
}

// grace is how long a server that is cut off has to end by itself.
const grace = 5 * time.Second

func start(cfg Config, stderr *os.File) (*server, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, err
	}
	defer outW.Close()
	cmd := exec.Command(cfg.Command[0], cfg.Command[1:]...)
	cmd.Stdin, cmd.Stdout = inR, outW
	cmd.Env = slices.DeleteFunc(cmd.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(cfg.Withhold, name)
	})
	if stderr != nil {
		cmd.Stderr = stderr
	}
	if err := cmd.Start(); err != nil {
		inW.Close()
		outR.Close()
		return nil, err
	}
	return &server{cmd, inW, outR}, nil
}

// wait passes signals on until the process has ended.
func (s *server) wait(ctx context.Context, signals <-chan os.Signal) error {
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	done := ctx.Done()
	for {
		select {
		case sig := <-signals:
			if (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && inForeground() {
				continue // the terminal has sent it to the server as well
			}
			_ = s.cmd.Process.Signal(sig) // it may just have ended
		case <-done:
			_, done = s.cmd.Process.Signal(syscall.SIGTERM), nil
		case err := <-ended:
			return err
		}
	}
}

// inForeground says whether this process belongs to the group that a terminal
// sends its signals to.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// cutOff lets nothing more pass and asks the server to end. The pipes come first:
// it may take its time, or leave children that hold them.
func (s *server) cutOff() {
	s.in.Close()
	s.out.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	time.AfterFunc(grace, func() { _ = s.cmd.Process.Kill() })
}

// status is a process's exit status, as a shell has it.
func status(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

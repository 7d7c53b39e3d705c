package alerttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopTime is how long a server may take to write its data and end.
const stopTime = 20 * time.Second

// process is a server that can be started again with the same command.
type process struct {
	name    string
	command func() *exec.Cmd
	log     string // file for what it says

	mu    sync.Mutex // guards what follows
	cmd   *exec.Cmd  // nil before the first start
	ended chan struct{}
}

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs() {
		return nil
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	defer out.Close()
	p.cmd = p.command()
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = out, out, dieWithParent()
	started, ended := make(chan error), make(chan struct{})
	p.ended = ended
	go func(cmd *exec.Cmd) {
		// A child dies with the thread that started it, so that thread stays.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is for whoever ended it
		}
		close(ended)
	}(p.cmd)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

// runs says whether there is a process. mu is held.
func (p *process) runs() bool {
	if p.cmd == nil || p.cmd.Process == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs()
}

func (p *process) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runs() {
		return nil
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		return fmt.Errorf("stop %s: it still ran after %v, and was killed; %s", p.name, stopTime, p.lastWords())
	}
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
	}
}

// lastWords are the end of the process's log.
func (p *process) lastWords() string {
	text, err := os.ReadFile(p.log)
	if err != nil || len(text) == 0 {
		return "it said nothing"
	}
	const most = 3000
	if len(text) > most {
		text = text[len(text)-most:]
		if _, after, ok := bytes.Cut(text, []byte("\n")); ok {
			text = after
		}
	}
	return "it said:\n" + string(text)
}

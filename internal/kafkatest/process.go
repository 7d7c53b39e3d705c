package kafkatest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Listeners of a broker.
const (
	plain      = "PLAINTEXT"
	saslPlain  = "SASL"
	withTLS    = "TLS"
	saslTLS    = "SASLTLS"
	controller = "CONTROLLER"
)

// process is one broker: its folder and ports stay while processes come and go.
type process struct {
	node      int
	home, dir string
	ports     map[string]int // by listener

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd  // nil before the first start
	ended  chan struct{}
	frozen bool
	// ordered says that the process was ended on purpose.
	ordered bool
}

func (b *process) address(listener string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.ports[listener]))
}

// configure decides ports and writes the brokers' folders and configurations.
func (c *cluster) configure(home, dir string, brokers int, o options) error {
	names := []string{controller, plain}
	if o.secure {
		names = append(names, saslPlain, withTLS, saslTLS)
		var err error
		if c.secure, err = newSecurity(filepath.Join(dir, "security"), o); err != nil {
			return err
		}
	}
	ports, err := freePorts(brokers * len(names))
	if err != nil {
		return err
	}
	var voters []string
	for i := range brokers {
		b := &process{node: i, home: home, dir: filepath.Join(dir, strconv.Itoa(i)), ports: map[string]int{}}
		for n, name := range names {
			b.ports[name] = ports[i*len(names)+n]
		}
		c.brokers = append(c.brokers, b)
		voters = append(voters, fmt.Sprintf("%d@%s", i, b.address(controller)))
	}
	for _, b := range c.brokers {
		if err := b.configure(c, names, voters, o.properties); err != nil {
			return fmt.Errorf("configure broker %d: %w", b.node, err)
		}
	}
	c.secure.at(c.brokers)
	return nil
}

// configure formats the broker's folder and writes its configuration. What the format
// of a folder writes is meta.properties, and the bootstrap.checkpoint with the
// cluster's features, which is the same for all: the installation has one.
func (b *process) configure(c *cluster, names, voters, more []string) error {
	data := filepath.Join(b.dir, "data")
	for _, dir := range []string{data, filepath.Join(b.dir, "tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	common, err := os.ReadFile(filepath.Join(b.home, "broker.properties"))
	if err != nil {
		return err
	}
	bootstrap, err := os.ReadFile(filepath.Join(b.home, "bootstrap.checkpoint"))
	if err != nil {
		return err
	}
	replicas := min(3, len(c.brokers))
	var listeners, protocols []string
	for _, name := range names {
		listeners = append(listeners, name+"://"+b.address(name))
		protocols = append(protocols, name+":"+protocolOf[name])
	}
	lines := slices.Concat([]string{
		string(common),
		"node.id=" + strconv.Itoa(b.node),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		"listeners=" + strings.Join(listeners, ","),
		"listener.security.protocol.map=" + strings.Join(protocols, ","),
		"inter.broker.listener.name=" + plain,
		"log.dirs=" + data,
		"default.replication.factor=" + strconv.Itoa(replicas),
		"offsets.topic.replication.factor=" + strconv.Itoa(replicas),
		"transaction.state.log.replication.factor=" + strconv.Itoa(replicas),
		"transaction.state.log.min.isr=" + strconv.Itoa(min(2, replicas)),
		"min.insync.replicas=" + strconv.Itoa(majority(replicas)),
	}, c.secure.properties(), more, []string{""})
	meta := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n", c.id, b.node, newID())
	return errors.Join(
		os.WriteFile(filepath.Join(b.dir, "broker.properties"), []byte(strings.Join(lines, "\n")), 0o600),
		os.WriteFile(filepath.Join(data, "meta.properties"), []byte(meta), 0o600),
		os.WriteFile(filepath.Join(data, "bootstrap.checkpoint"), bootstrap, 0o600),
	)
}

// newID is one of Kafka's: 16 random bytes in base64url, without padding.
func newID() string {
	var id [16]byte
	rand.Read(id[:])
	return base64.RawURLEncoding.EncodeToString(id[:])
}

// protocolOf a listener, by Kafka's names.
var protocolOf = map[string]string{plain: "PLAINTEXT", controller: "PLAINTEXT", saslPlain: "SASL_PLAINTEXT", withTLS: "SSL", saslTLS: "SASL_SSL"}

// majority of the replicas must have a message that is acknowledged by all: with
// three, one may be away.
func majority(replicas int) int {
	if replicas < 3 {
		return 1
	}
	return 2
}

// freePorts finds ports below those that systems give to outgoing connections, so
// that a broker that is down keeps its own.
func freePorts(n int) ([]int, error) {
	var out []int
	for range 100 * n {
		port := 12000 + mathrand.IntN(20000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		l.Close()
		if !slices.Contains(out, port) {
			out = append(out, port)
		}
		if len(out) == n {
			return out, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports between 12000 and 32000: only %d are free", n, len(out))
}

// start starts the process, which answers some seconds later.
func (b *process) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running() {
		return nil
	}
	jars, err := filepath.Glob(filepath.Join(b.home, "libs", "*.jar"))
	if err != nil || len(jars) == 0 {
		return fmt.Errorf("find the jars of Kafka in %q: %d found", filepath.Join(b.home, "libs"), len(jars))
	}
	out, err := os.OpenFile(b.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of broker %d: %w", b.node, err)
	}
	defer out.Close()
	b.cmd = exec.Command("java", "-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-XX:SharedArchiveFile="+filepath.Join(b.home, "kafka.jsa"), "-Xlog:disable", "-Xlog:all=error:stderr",
		"-Djava.io.tmpdir="+filepath.Join(b.dir, "tmp"), "-Djava.awt.headless=true",
		"-Dlog4j2.configurationFile="+filepath.Join(b.home, "log4j2.properties"),
		"-cp", strings.Join(jars, ":"), "kafka.Kafka", filepath.Join(b.dir, "broker.properties"))
	b.cmd.Stdout, b.cmd.Stderr, b.cmd.SysProcAttr = out, out, dieWithParent()
	started, ended := make(chan error), make(chan struct{})
	b.ended, b.frozen, b.ordered = ended, false, false
	go func(cmd *exec.Cmd) {
		// A child dies with the thread that started it, so that thread stays.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is for whoever ended it
		}
		close(ended)
	}(b.cmd)
	if err := <-started; err != nil {
		return fmt.Errorf("start broker %d: %w", b.node, err)
	}
	return nil
}

// running says whether there is a process. mu is held.
func (b *process) running() bool {
	if b.cmd == nil || b.cmd.Process == nil {
		return false
	}
	select {
	case <-b.ended:
		return false
	default:
		return true
	}
}

func (b *process) alive() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running() && !b.frozen
}

// failed says that the process ended by itself.
func (b *process) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cmd != nil && !b.running() && !b.ordered
}

// kill ends the process as a power cut would, but for what the system has cached,
// and waits until it is gone.
func (b *process) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running() {
		b.ordered = true
		_ = b.cmd.Process.Kill() // it may have ended
		<-b.ended
	}
}

// logFile has what the broker says: warnings and errors.
func (b *process) logFile() string { return filepath.Join(b.dir, "broker.log") }

// lastWords are the end of the broker's log.
func (b *process) lastWords() string {
	text, err := os.ReadFile(b.logFile())
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

// stopTime is how long a broker may take to hand its partitions over and end.
const stopTime = 30 * time.Second

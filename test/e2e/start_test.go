package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// node is where a daemon that must not start is tried.
type node struct {
	*lab.Host
	t      *testing.T
	binary string
	// dir holds the daemon's configuration, socket and store; pins is its pin_path.
	dir, pins string
}

func (n node) path(name string) string { return filepath.Join(n.dir, name) }

// configure writes a configuration: the given first lines, and paths in dir.
func (n node) configure(lines string) {
	n.t.Helper()
	text := fmt.Sprintf("%s\nstore: %s\napi:\n  socket: %s\npin_path: %s\n", lines, n.path("state.db"), n.path("api.sock"), n.pins)
	if err := os.WriteFile(n.path("steelyard.yaml"), []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// fails runs the daemon, by way of other commands if any are given. It has to
// end by itself with an error, leave nothing attached that was not before, and
// no socket. What it said to the operator is returned.
func (n node) fails(by ...string) string {
	n.t.Helper()
	before := programs(n.t, n.Host)
	args := append(slices.Clone(by), n.binary, "daemon", "--config", n.path("steelyard.yaml"))
	cmd := n.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	limit := time.AfterFunc(patience, func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			n.t.Error(err)
		}
	})
	defer limit.Stop()
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != exitFailure {
		n.t.Errorf("the daemon ended with %v, want exit code %d:\n%s", err, exitFailure, &stderr)
	}
	if after := programs(n.t, n.Host); !slices.Equal(before, after) {
		n.t.Errorf("there were programs on %v, and are on %v", before, after)
	}
	if _, err := os.Lstat(n.path("api.sock")); !errors.Is(err, fs.ErrNotExist) {
		n.t.Errorf("a socket is left: %v", err)
	}
	// What is not said to the operator is the log.
	var said []string
	for line := range strings.SplitSeq(stderr.String(), "\n") {
		if text, ok := strings.CutPrefix(line, "steelyard: "); ok {
			said = append(said, text)
		} else if line != "" && !strings.HasPrefix(line, "time=") {
			n.t.Errorf("a line that is neither message nor log: %q", line)
		}
	}
	if len(said) == 0 {
		n.t.Errorf("it said nothing:\n%s", &stderr)
	}
	return strings.Join(said, "\n")
}

// says wants all of these words, in one or two lines.
func (n node) says(said string, words ...string) {
	n.t.Helper()
	for _, want := range words {
		if !strings.Contains(said, want) {
			n.t.Errorf("%q does not say %q", said, want)
		}
	}
}

// brief wants a message of at most two lines.
func (n node) brief(said string, words ...string) {
	n.t.Helper()
	n.says(said, words...)
	if strings.Count(said, "\n") > 1 {
		n.t.Errorf("the message is long:\n%s", said)
	}
}

// node returns the balancer with a directory for one try.
func (r *rig) node(t *testing.T) node {
	t.Helper()
	name := filepath.Base(t.Name())
	n := node{Host: r.Balancer, t: t, binary: r.binary, dir: filepath.Join(r.Dir(), name), pins: filepath.Join(r.BPFFS(), name)}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDaemonDoesNotStart tries everything that keeps a daemon from starting.
func TestDaemonDoesNotStart(t *testing.T) {
	t.Parallel()
	r := &rig{Lab: lab.Start(t, lab.Options{Backends: 1, Interfaces: 2}), t: t}
	var err error
	r.binary, err = lab.Binary()
	r.must(err)

	t.Run("no interface", func(t *testing.T) {
		n := r.node(t)
		n.configure("log: {level: info}")
		n.brief(n.fails(), "no interface to attach to", "--interface")
	})
	t.Run("no such interface", func(t *testing.T) {
		n := r.node(t)
		n.configure("interfaces: [eth0, eth7]")
		n.brief(n.fails(), "eth7", "no such interface")
	})
	t.Run("another program", func(t *testing.T) {
		n := r.node(t)
		if err := r.Balancer.ReceiveXDP("eth1"); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"auto", "native", "generic"} {
			n.configure("interfaces: [eth0, eth1]\nxdp_mode: " + mode)
			n.brief(n.fails(), "eth1", "another XDP program", "ip link set dev eth1 xdp off")
		}
		if _, err := r.Balancer.Run("ip", "link", "set", "dev", "eth1", "xdp", "off"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("unknown key", func(t *testing.T) {
		n := r.node(t)
		n.configure("interfaces: [eth0]\nlimits:\n  vip: 7")
		n.says(n.fails(), n.path("steelyard.yaml")+":3:3: limits.vip: ", "did you mean vips?")
	})
	t.Run("no configuration", func(t *testing.T) {
		n := r.node(t)
		n.brief(n.fails(), n.path("steelyard.yaml"), "no such file")
	})
	t.Run("metrics port in use", func(t *testing.T) { r.metricsPortInUse(r.node(t)) })
	t.Run("no permission for the store", func(t *testing.T) {
		n := r.node(t)
		n.configure("interfaces: [eth0]")
		n.brief(n.fails(asNobody()...), n.path("state.db"), "permission denied")
	})
	t.Run("no permission for BPF", func(t *testing.T) {
		n := r.node(t)
		n.configure("interfaces: [eth0]\nmetrics: {listen: ''}")
		if err := os.Chown(n.dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		n.brief(n.fails(asNobody()...), "run as root, or with CAP_BPF")
	})
	t.Run("another daemon", func(t *testing.T) { r.anotherDaemon(r.node(t)) })
}

// metricsPortInUse starts a server where metrics are to be.
func (r *rig) metricsPortInUse(n node) {
	squatter, err := r.Balancer.Nginx(n.t.Context(), lab.Site{Ports: []uint16{9464}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.configure("interfaces: [eth0]\nmetrics: {listen: '127.0.0.1:9464'}")
	n.brief(n.fails(), "metrics", "127.0.0.1:9464", "address already in use", "metrics.listen")
	if err := squatter.Stop(); err != nil {
		n.t.Fatal(err)
	}
}

const nobody = 65534

// asNobody runs what follows as a user without any capability.
func asNobody() []string {
	return []string{"setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups"}
}

// anotherDaemon starts a second daemon beside one that runs, which must not notice.
func (r *rig) anotherDaemon(n node) {
	on := *r
	on.t = n.t
	r = &on
	r.startDaemon()
	defer r.stopDaemon()
	metrics := "\nmetrics: {listen: ''}"
	same := func(lines string) {
		n.t.Helper()
		if err := os.WriteFile(n.path("steelyard.yaml"), []byte(lines), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}

	same(r.config())
	n.brief(n.fails(), filepath.Join(r.Balancer.Dir(), "state.db"), "in use by another process", "another steelyard daemon")
	same(fmt.Sprintf("interfaces: [eth0]\nstore: %s\napi:\n  socket: %s%s\n", n.path("state.db"), r.socket(), metrics))
	n.brief(n.fails(), r.socket(), "another daemon is listening")
	n.configure("interfaces: [eth0]" + metrics)
	n.brief(n.fails(), "eth0", "another XDP program")
	r.cli("status")
}

package lab

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Root is the directory that holds one directory for each lab that is up. Its
// path is short because unix socket addresses end at 107 bytes.
const Root = "/run/steelyard-lab"

// stateFile holds the options of a lab, for [Open].
const stateFile = "lab.json"

// Bounds and defaults of [Options].
const (
	DefaultBackends = 3
	MaxBackends     = 200
	// DefaultMTU lets a packet of 1500 bytes travel in one more IPv6 header.
	DefaultMTU = 1600
	MinMTU     = 1280
	MaxMTU     = 65535
	MaxQueues  = 16
)

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9]{0,23}$`)

// Options describe a lab. The zero value is a lab of one balancer interface and
// three backends with a fresh name.
type Options struct {
	// Name prefixes the namespaces: up to 24 lower-case letters and digits.
	// Empty picks one that is not taken.
	Name string `json:"name"`
	// Backends is how many there are, 1 to [MaxBackends]; 0 means [DefaultBackends].
	Backends int `json:"backends"`
	// Interfaces of the balancer, 1 or 2; 0 means 1.
	Interfaces int `json:"interfaces"`
	// MTU of the links of router, balancer and backends, in bytes; 0 means
	// [DefaultMTU]. The client's link always has 1500.
	MTU int `json:"mtu"`
	// Transit is the MTU in bytes of one more link, between the router and an
	// access router that the client is then behind; 0 means that there is none.
	Transit int `json:"transit,omitempty"`
	// Queues of every device, 1 to [MaxQueues]; 0 means 1. With several, as many CPUs
	// may be in a device's program at once: a queue is served by one at a time, and a
	// packet stays with its number from the client to the balancer.
	Queues int `json:"queues,omitempty"`
	// Return is how backends answer clients; empty means [ReturnDirect].
	Return Return `json:"return,omitempty"`
}

// Return is the way that the answers of backends take to clients.
type Return string

const (
	// ReturnDirect goes to the router, past the balancer.
	ReturnDirect Return = "direct"
	// ReturnGateway goes through the balancer, the gateway of backends, which forwards
	// for them what it does not translate.
	ReturnGateway Return = "gateway"
	// ReturnSNAT goes to the addresses of [SNAT], which the balancer has beside its
	// own here and with ReturnGateway. Backends know no way out of their network.
	ReturnSNAT Return = "snat"
)

// Lab is a network of namespaces. Its methods may be called by several
// goroutines, [Lab.Close] by one, at the end.
type Lab struct {
	Options
	// Client, Router, Switch and Balancer are the hosts that every lab has.
	Client, Router, Switch, Balancer *Host
	// Access is the access router, nil if there is no transit link.
	Access *Host
	// Backends are backend1, backend2 and so on.
	Backends []*Host

	dir  string
	home *os.File // the namespace that the lab was built from

	mu        sync.Mutex // guards processes
	processes []*Process // in the order of their start
}

// New builds a lab. The caller closes it. On error nothing is left behind.
func New(o Options) (*Lab, error) {
	o, err := o.complete()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: making network namespaces needs root; run this with sudo")
	}
	if err := os.MkdirAll(Root, 0o755); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := describe(o)
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("lab: %q is up already (%s); take it down first or choose another name", o.Name, l.dir)
		}
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: %w", o.Name, err), l.Close())
	}
	return l, nil
}

// Open returns a lab that another process built and left up. It also opens one
// that is damaged, so that [Lab.Close] can remove what is left of it.
func Open(name string) (*Lab, error) {
	data, err := os.ReadFile(filepath.Join(Root, name, stateFile))
	if err != nil {
		return nil, fmt.Errorf("lab: %q is not up: %w", name, err)
	}
	var o Options
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("lab: read %s: %w", filepath.Join(Root, name, stateFile), err)
	}
	if o, err = o.complete(); err != nil {
		return nil, fmt.Errorf("lab: read %s: %w", filepath.Join(Root, name, stateFile), err)
	}
	l := describe(o)
	if err := l.openHome(); err != nil {
		return nil, err
	}
	for _, h := range l.Hosts() {
		if err := h.open(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, l.release())
		}
	}
	return l, nil
}

// Names lists the labs that are up, sorted.
func Names() ([]string, error) {
	entries, err := os.ReadDir(Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (o Options) complete() (Options, error) {
	if o.Name == "" {
		random := make([]byte, 4)
		rand.Read(random)
		o.Name = "lab" + hex.EncodeToString(random)
	}
	if o.Backends == 0 {
		o.Backends = DefaultBackends
	}
	if o.Interfaces == 0 {
		o.Interfaces = 1
	}
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Return == "" {
		o.Return = ReturnDirect
	}
	switch {
	case !nameShape.MatchString(o.Name):
		return o, fmt.Errorf("name %q: want 1 to 24 lower-case letters and digits, the first a letter", o.Name)
	case o.Backends < 1 || o.Backends > MaxBackends:
		return o, fmt.Errorf("%d backends: want 1 to %d", o.Backends, MaxBackends)
	case o.Interfaces < 1 || o.Interfaces > 2:
		return o, fmt.Errorf("%d interfaces: want 1 or 2", o.Interfaces)
	case o.MTU < MinMTU || o.MTU > MaxMTU:
		return o, fmt.Errorf("MTU %d: want %d to %d", o.MTU, MinMTU, MaxMTU)
	case o.Transit != 0 && (o.Transit < MinMTU || o.Transit > MaxMTU):
		return o, fmt.Errorf("MTU %d of the transit link: want %d to %d", o.Transit, MinMTU, MaxMTU)
	case o.Queues < 1 || o.Queues > MaxQueues:
		return o, fmt.Errorf("%d queues: want 1 to %d", o.Queues, MaxQueues)
	case !slices.Contains([]Return{ReturnDirect, ReturnGateway, ReturnSNAT}, o.Return):
		return o, fmt.Errorf("return %q: want %s, %s or %s", o.Return, ReturnDirect, ReturnGateway, ReturnSNAT)
	}
	return o, nil
}

// describe returns the lab that the options ask for, nothing of it built yet.
func describe(o Options) *Lab {
	l := &Lab{Options: o, dir: filepath.Join(Root, o.Name)}
	at := func(name string, n network, i int) *Host {
		v4, v6 := n.host(i)
		return l.host(name, v4, v6)
	}
	l.Client = at("client", netClient, 2)
	if o.Transit != 0 {
		l.Access = at("access", netClient, 1)
	}
	l.Router = at("router", netLAN, 1)
	l.Switch = l.host("switch", netip.Addr{}, netip.Addr{})
	l.Balancer = at("balancer", netLAN, 2)
	for n := 1; n <= o.Backends; n++ {
		l.Backends = append(l.Backends, at(fmt.Sprintf("backend%d", n), netLAN, 10+n))
	}
	return l
}

// Hosts lists every host of the lab.
func (l *Lab) Hosts() []*Host {
	hosts := []*Host{l.Client, l.Router, l.Switch, l.Balancer}
	if l.Access != nil {
		hosts = append(hosts, l.Access)
	}
	return append(hosts, l.Backends...)
}

// Host returns the host of that name, such as "backend1".
func (l *Lab) Host(name string) (*Host, error) {
	var known []string
	for _, h := range l.Hosts() {
		if h.Name == name {
			return h, nil
		}
		known = append(known, h.Name)
	}
	return nil, fmt.Errorf("lab %s: no host %q; there are %v", l.Name, name, known)
}

// Dir is the lab's directory; it goes with the lab.
func (l *Lab) Dir() string { return l.dir }

// BPFFS is a BPF file system of the lab's own, for pins. What is pinned there
// goes with the lab.
func (l *Lab) BPFFS() string { return filepath.Join(l.dir, "bpf") }

// Close stops every process in the lab and removes its namespaces, pins and
// files. It goes on after an error and returns all of them. Closing again does
// nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	processes := slices.Clone(l.processes)
	l.processes = nil
	l.mu.Unlock()

	var errs []error
	for _, p := range slices.Backward(processes) {
		errs = append(errs, p.Stop())
	}
	errs = append(errs, l.endStrays())
	if err := unix.Unmount(l.BPFFS(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", l.BPFFS(), err))
	}
	errs = append(errs, l.release())
	for _, h := range l.Hosts() {
		if _, err := os.Stat(h.path()); err == nil {
			errs = append(errs, ip("netns", "delete", h.NetNS))
		}
	}
	errs = append(errs, os.RemoveAll(l.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab %s: close: %w", l.Name, err)
	}
	return nil
}

// release closes the descriptors that hold namespaces.
func (l *Lab) release() error {
	var errs []error
	for _, h := range l.Hosts() {
		errs = append(errs, h.close())
	}
	if l.home != nil {
		errs = append(errs, l.home.Close())
		l.home = nil
	}
	return errors.Join(errs...)
}

func (l *Lab) openHome() error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	l.home = home
	return nil
}

// TB is the part of [testing.TB] that [Start] needs.
type TB interface {
	Helper()
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Start builds a lab for one test and closes it when the test ends; if the test
// failed, the ends of its processes' logs are shown.
func Start(t TB, o Options) *Lab {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.mu.Lock()
			for _, p := range l.processes {
				t.Logf("log of %s:\n%s", p, p.LogTail())
			}
			l.mu.Unlock()
		}
		if err := l.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	return l
}

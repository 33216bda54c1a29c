package backend

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/namespace"
)

const patience = 20 * time.Second

// childOptions, if set, makes the test binary a backend helper, for tests that
// kill one.
const childOptions = "STEELYARD_TEST_BACKEND_VIPS"

func TestMain(m *testing.M) {
	if vips := os.Getenv(childOptions); vips != "" {
		child(strings.Fields(vips))
		return
	}
	goleak.VerifyTestMain(m)
}

func child(vips []string) {
	o := options(vips...)
	o.Say = func(string, ...any) {}
	if err := Run(context.Background(), o, func() { fmt.Println("ready") }); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// options are those of the lab's backend.
func options(vips ...string) Options {
	o := Options{
		Interfaces: []string{"eth0"},
		Balancers:  []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32"), netip.MustParsePrefix("2001:db8:51::1/128")},
		Decap:      true,
		GUEPort:    guePort,
	}
	for _, vip := range vips {
		o.VIPs = append(o.VIPs, netip.MustParseAddr(vip))
	}
	return o
}

// machine is a network namespace of a test.
type machine struct {
	t testing.TB
	namespace.Namespace
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t, namespace.New(t)}
	m.must(m.LinkSetUp(m.link("lo")))
	m.sysctl("ipv6/conf/default/accept_dad", "0")
	return m
}

func (m *machine) do(f func() error) { m.t.Helper(); m.must(m.Do(f)) }

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(name string) netlink.Link {
	m.t.Helper()
	link, err := m.LinkByName(name)
	m.must(err)
	return link
}

// sysctl writes below /proc/sys/net, which is that of the thread's namespace.
func (m *machine) sysctl(path, value string) {
	m.t.Helper()
	m.do(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0) })
}

func (m *machine) addr(link string, cidrs ...string) {
	m.t.Helper()
	for _, cidr := range cidrs {
		a, err := netlink.ParseAddr(cidr)
		m.must(err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		m.must(m.AddrAdd(m.link(link), a))
	}
}

func (m *machine) delAddr(link, cidr string) {
	m.t.Helper()
	a, err := netlink.ParseAddr(cidr)
	m.must(err)
	m.must(m.AddrDel(m.link(link), a))
}

// udp opens a socket in the machine.
func (m *machine) udp(addr string) *net.UDPConn {
	m.t.Helper()
	var conn *net.UDPConn
	m.do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	})
	m.t.Cleanup(func() { conn.Close() })
	m.must(conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// wire opens a packet socket on an interface: it reads and writes frames.
func (m *machine) wire(link string) *os.File {
	m.t.Helper()
	var file *os.File
	m.do(func() error {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "wire")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: m.link(link).Attrs().Index})
	})
	m.t.Cleanup(func() { file.Close() })
	m.must(file.SetDeadline(time.Now().Add(patience)))
	return file
}

// snapshot is all of a machine that a backend helper could change.
func (m *machine) snapshot() map[string]string {
	m.t.Helper()
	out := map[string]string{}
	links, err := patiently(m.LinkList)
	m.must(err)
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		out["xdp "+a.Name] = fmt.Sprint(a.Xdp != nil && a.Xdp.Attached)
	}
	addrs, err := patiently(func() ([]netlink.Addr, error) { return m.AddrList(nil, netlink.FAMILY_ALL) })
	m.must(err)
	for _, a := range addrs {
		out[names[a.LinkIndex]+" "+a.IPNet.String()] = fmt.Sprintf("scope %d, flags %#x, preferred %d", a.Scope, a.Flags, a.PreferedLft)
	}
	m.do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.Contains(path, "/conf/") || filepath.Base(path) == "stable_secret" {
				return err
			}
			value, err := os.ReadFile(path)
			out[strings.TrimPrefix(path, "/proc/sys/net/")] = strings.TrimSpace(string(value))
			return err
		})
	})
	return out
}

// difference lists what changed from one snapshot to another: "key: old -> new".
func difference(from, to map[string]string) []string {
	var out []string
	keys := maps.Clone(from)
	maps.Copy(keys, to)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if from[key] != to[key] {
			out = append(out, fmt.Sprintf("%s: %s -> %s", key, from[key], to[key]))
		}
	}
	return out
}

// lab is a client, which is also the balancer, and a backend on one segment:
//
//	client eth0 198.51.100.1, .77 --- backend eth0 198.51.100.2
//	       2001:db8:51::1, ::77           2001:db8:51::2
type lab struct{ client, backend *machine }

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{newMachine(t), newMachine(t)}
	l.client.must(l.client.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: []byte{2, 0, 0, 0, 0, 1}},
		PeerName:  "eth0", PeerHardwareAddr: []byte{2, 0, 0, 0, 0, 2}, PeerNamespace: netlink.NsFd(l.backend.NsHandle),
	}))
	l.client.addr("eth0", "198.51.100.1/24", "198.51.100.77/24", "2001:db8:51::1/64", "2001:db8:51::77/64")
	l.backend.addr("eth0", "198.51.100.2/24", "2001:db8:51::2/64")
	for _, m := range []*machine{l.client, l.backend} {
		m.must(m.LinkSetUp(m.link("eth0")))
	}
	for _, m := range []*machine{l.client, l.backend} {
		eventually(t, "carrier and link-local address", func() bool { return m.settled("eth0") })
	}
	return l
}

// settled reports whether an interface's state and addresses change no more.
func (m *machine) settled(link string) bool {
	m.t.Helper()
	on := m.link(link)
	addrs, err := patiently(func() ([]netlink.Addr, error) { return m.AddrList(on, netlink.FAMILY_V6) })
	m.must(err)
	linkLocal := slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
	})
	return linkLocal && on.Attrs().OperState == netlink.OperUp
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v", what, patience)
		}
		<-time.After(time.Millisecond)
	}
}

// running is a Run in a machine.
type running struct {
	cancel context.CancelFunc
	ended  chan error
	mu     sync.Mutex // guards lines
	lines  []string
}

func (r *running) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

// said returns what was said until now, a line each.
func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// start runs Run in the machine until it is ready, or returns its error.
func (m *machine) start(o Options) (*running, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, ended: make(chan error, 1)}
	o.Say = r.say
	ready := make(chan struct{})
	go func() {
		r.ended <- m.Do(func() error { return Run(ctx, o, func() { close(ready) }) })
	}()
	select {
	case <-ready:
		return r, nil
	case err := <-r.ended:
		cancel()
		return r, err
	}
}

// run starts Run and makes sure that it ends with the test.
func (m *machine) run(o Options) *running {
	m.t.Helper()
	r, err := m.start(o)
	m.must(err)
	m.t.Cleanup(func() { r.stop(m.t) })
	return r
}

// stop ends Run; more than once does no harm.
func (r *running) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	err, first := <-r.ended
	if first {
		close(r.ended)
	}
	if err != nil {
		t.Errorf("Run: %v", err)
	}
}

// startChild starts a backend helper as a process, which the test kills.
func (m *machine) startChild(vips ...string) *exec.Cmd {
	m.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childOptions+"="+strings.Join(vips, " "))
	out, err := cmd.StdoutPipe()
	m.must(err)
	m.do(cmd.Start)
	line := make([]byte, 256)
	n, _ := out.Read(line)
	if said := strings.TrimSpace(string(line[:n])); said != "ready" {
		cmd.Process.Kill()
		cmd.Wait()
		m.t.Fatalf("child: %q", said)
	}
	return cmd
}

package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/steelyard-lb/steelyard/test/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the deadline of what should take a moment.
const patience = 20 * time.Second

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func url(addr netip.Addr, path string) string {
	return "http://" + netip.AddrPortFrom(addr, 80).String() + path
}

// TestReachability checks that everybody reaches everybody in both topologies
// and both families, with full-size packets where links are wide enough.
func TestReachability(t *testing.T) {
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d interfaces", interfaces), func(t *testing.T) {
			l := lab.Start(t, lab.Options{Interfaces: interfaces, Backends: 2})
			ping := func(from *lab.Host, to netip.Addr, args ...string) {
				t.Helper()
				if _, err := from.Run("ping", append(append([]string{"-n", "-q", "-c", "1", "-W", "5"}, args...), to.String())...); err != nil {
					t.Error(err)
				}
			}
			front4, front6 := l.Front()
			source4, source6 := netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("2001:db8:113::77")
			ping(l.Client, front4)
			ping(l.Client, front6)
			for _, b := range l.Backends {
				ping(l.Client, b.V4, "-I", source4.String())
				ping(l.Client, b.V6, "-I", source6.String())
				ping(b, l.Client.V4)
				ping(b, l.Client.V6)
				ping(b, source4)
				ping(b, source6)
				// Don't fragment: an encapsulated packet of 1500 bytes passes.
				ping(l.Balancer, b.V4, "-M", "do", "-s", strconv.Itoa(1540-20-8))
				ping(l.Balancer, b.V6, "-M", "do", "-s", strconv.Itoa(1540-40-8))
			}
		})
	}
}

// TestVIPsReachTheBalancer sees that the router sends a VIP's packets to the
// balancer: there, as an ordinary address, it answers.
func TestVIPsReachTheBalancer(t *testing.T) {
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d interfaces", interfaces), func(t *testing.T) {
			l := lab.Start(t, lab.Options{Interfaces: interfaces, Backends: 1})
			vip4, vip6 := lab.VIP(10)
			for _, vip := range []netip.Addr{vip4, vip6} {
				ping := []string{"-n", "-q", "-c", "1", "-W", "1", vip.String()}
				if _, err := l.Client.Run("ping", ping...); err == nil {
					t.Errorf("%s answers before anybody has it", vip)
				}
				if _, err := l.Balancer.Run("ip", "address", "add", fmt.Sprintf("%s/%d", vip, vip.BitLen()), "dev", "lo", "nodad"); err != nil {
					t.Fatal(err)
				}
				if err := lab.WaitFor(deadline(t), "it answers", func() error {
					_, err := l.Client.Run("ping", ping...)
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestNginx(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 2})
	for _, b := range l.Backends {
		if _, err := b.Nginx(t.Context(), lab.Site{Ports: []uint16{80, 8080}, BigBytes: 3 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	ctx := deadline(t)
	for _, b := range l.Backends {
		for _, addr := range []netip.Addr{b.V4, b.V6} {
			if a := l.Client.Fetch(ctx, url(addr, "/healthz"), 10, 2); a.Bodies[b.Name] != 10 || a.Failed() != 0 {
				t.Errorf("%s at %s: %+v", b.Name, addr, a)
			}
			size, err := l.Client.Run("curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", url(addr, "/big"))
			if err != nil || size != strconv.Itoa(3<<20) {
				t.Errorf("/big has %s bytes: %v", size, err)
			}
		}
		if a := l.Client.Fetch(ctx, fmt.Sprintf("http://%s:8080/", b.V4), 1, 1); a.Good() != 1 {
			t.Errorf("port 8080: %+v", a)
		}
	}

	// Each connection comes from an address of its own.
	for _, addr := range []netip.Addr{l.Backends[0].V4, l.Backends[0].V6} {
		a := l.Client.Fetch(ctx, url(addr, "/client"), 254, 8)
		if a.Failed() != 0 || len(a.Bodies) != 254 {
			t.Errorf("connections come from %d addresses: %+v", len(a.Bodies), a)
		}
	}

	// A sick host fails its health check and nothing else.
	for _, sick := range []bool{true, false} {
		if err := l.Backends[0].Sick(sick); err != nil {
			t.Fatal(err)
		}
		health := l.Client.Fetch(ctx, url(l.Backends[0].V4, "/healthz"), 1, 1)
		if root := l.Client.Fetch(ctx, url(l.Backends[0].V4, "/"), 1, 1); root.Good() != 1 || (health.Failed() == 1) != sick {
			t.Errorf("sick %v: /healthz %+v, / %+v", sick, health, root)
		}
	}

	// A server that is gone, and a page that is not there, are failures.
	if a := l.Client.Fetch(ctx, url(l.Backends[0].V4, "/none"), 5, 5); a.Failed() != 5 || a.Good() != 0 {
		t.Errorf("no such page: %+v", a)
	}
	if a := l.Client.Fetch(ctx, fmt.Sprintf("http://%s:81/", l.Backends[0].V4), 5, 5); a.Failed() != 5 || a.Good() != 0 {
		t.Errorf("nobody listens: %+v", a)
	}
}

func TestNginxStopsAndReturns(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	b := l.Backends[0]
	for range 2 {
		server, err := b.Nginx(t.Context(), lab.Site{})
		if err != nil {
			t.Fatal(err)
		}
		if a := l.Client.Fetch(deadline(t), url(b.V4, "/"), 1, 1); a.Bodies[b.Name] != 1 {
			t.Errorf("%+v", a)
		}
		if err := server.Stop(); err != nil {
			t.Fatal(err)
		}
		if a := l.Client.Fetch(deadline(t), url(b.V4, "/"), 1, 1); a.Failed() != 1 {
			t.Errorf("answers after it was stopped: %+v", a)
		}
	}
	if _, err := b.Nginx(t.Context(), lab.Site{Body: "two\nlines"}); err == nil {
		t.Error("a body of two lines was taken")
	}
}

// TestStartSaysWhyItFailed wants the log of a program that ends before it is ready.
func TestStartSaysWhyItFailed(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	p, err := l.Client.Start("doomed", "sh", "-c", "echo the reason >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	err = p.WaitReady(deadline(t), func() error { return fmt.Errorf("not ready") })
	if err == nil {
		t.Fatal("ready though it ended")
	}
	for _, want := range []string{"doomed on client", "exit status 3", "the reason", "not ready"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// TestNothingIsLeft fills a lab with what could stay behind and closes it from
// another handle, as `down` does.
func TestNothingIsLeft(t *testing.T) {
	links := hostLinks(t)
	l, err := lab.New(lab.Options{Backends: 1, Interfaces: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := lab.New(lab.Options{Name: l.Name}); err == nil || !strings.Contains(err.Error(), "up already") {
		t.Errorf("a second lab of the same name: %v", err)
	}
	server, err := l.Backends[0].Nginx(t.Context(), lab.Site{})
	if err != nil {
		t.Fatal(err)
	}
	// An orphan, which the lab does not know of.
	if _, err := l.Client.Run("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $! > "+filepath.Join(l.Dir(), "orphan")); err != nil {
		t.Fatal(err)
	}
	orphan := readPID(t, filepath.Join(l.Dir(), "orphan"))
	if !alive(orphan) || !alive(server.PID()) {
		t.Fatal("the processes do not run")
	}

	names, err := lab.Names()
	if err != nil || !slices.Contains(names, l.Name) {
		t.Errorf("labs up: %v, %v", names, err)
	}
	other, err := lab.Open(l.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	<-server.Done()
	for _, pid := range []int{orphan, server.PID()} {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	for _, h := range l.Hosts() {
		if _, err := os.Stat("/run/netns/" + h.NetNS); !os.IsNotExist(err) {
			t.Errorf("namespace %s is left: %v", h.NetNS, err)
		}
	}
	if _, err := os.Stat(l.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", l.Dir(), err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), l.Name) {
		t.Errorf("a mount is left: %v\n%s", err, mounts)
	}
	if now := hostLinks(t); !slices.Equal(now, links) {
		t.Errorf("devices outside were %v and are %v", links, now)
	}
	if _, err := lab.Open(l.Name); err == nil {
		t.Error("a lab that is down was opened")
	}
}

// TestFailedBuildLeavesNothing breaks the build in its middle.
func TestFailedBuildLeavesNothing(t *testing.T) {
	name := fmt.Sprintf("broken%d", os.Getpid())
	in := "/run/netns/" + name + "-backend1"
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(in); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	_, err := lab.New(lab.Options{Name: name})
	if err == nil {
		t.Fatal("built though a namespace's name is taken")
	}
	left, err := filepath.Glob("/run/netns/" + name + "-*")
	if err != nil || len(left) > 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(lab.Root, name)); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []lab.Options{
		{Name: "Upper"}, {Name: "a-b"}, {Name: strings.Repeat("a", 25)}, {Name: "../x"},
		{Backends: -1}, {Backends: lab.MaxBackends + 1}, {Interfaces: 3}, {MTU: 1000}, {Return: "postal"}, {Queues: lab.MaxQueues + 1},
	} {
		if l, err := lab.New(o); err == nil {
			t.Errorf("%+v was taken: %v", o, l.Close())
		}
	}
}

// TestDo checks that the caller's thread is back outside afterwards, whatever happened inside.
func TestDo(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	outside := threadNS(t)
	for _, result := range []error{nil, fmt.Errorf("mine")} {
		var inside string
		err := l.Client.Do(func() error {
			inside = threadNS(t)
			return result
		})
		if err != result || inside == outside || threadNS(t) != outside {
			t.Errorf("inside %s, outside %s, now %s: %v", inside, outside, threadNS(t), err)
		}
	}
}

func threadNS(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func hostLinks(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(func(yield func(string) bool) {
		for _, e := range entries {
			if !yield(e.Name()) {
				return
			}
		}
	})
}

func readPID(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// alive reports whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, again := time.After(patience), time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

func within(t *testing.T, timeout time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// start runs a checker until the test ends.
func start(t *testing.T, c *Checker) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// aim makes a target of an endpoint and a check.
func aim(to netip.AddrPort, c model.Check) Target {
	c = c.WithDefaults()
	return Target{Key{"web", model.BackendID{Address: to.Addr(), Port: to.Port()}, c.Name}, c}
}

// quick is a check that is made often, but has all the time that a busy machine
// may need.
func quick(kind model.CheckType) model.Check {
	return model.Check{Type: kind, Interval: model.MinCheckInterval, Timeout: patience}
}

// probe makes one probe that has time enough.
func probe(t *testing.T, target Target) outcome {
	t.Helper()
	return (&prober{}).probe(within(t, patience), target)
}

// timeOut makes a probe that is to time out with that result. Its time grows
// until a busy machine gets as far as where it is to wait.
func timeOut(t *testing.T, target Target, result string) outcome {
	t.Helper()
	for timeout := 50 * time.Millisecond; ; timeout *= 2 {
		got := (&prober{}).probe(within(t, timeout), target)
		if got.result == result || timeout > patience/4 {
			return got
		}
	}
}

// waitChanged waits for the checker to signal.
func waitChanged(t *testing.T, c *Checker) {
	t.Helper()
	select {
	case <-c.Changed():
	case <-time.After(patience):
		t.Fatalf("waited %v in vain for a change", patience)
	}
}

// loopbacks run a test for both families.
func loopbacks(t *testing.T, test func(t *testing.T, addr netip.Addr)) {
	for _, a := range []string{"127.0.0.1", "::1"} {
		t.Run(a, func(t *testing.T) { test(t, netip.MustParseAddr(a)) })
	}
}

// listen serves each connection to a TCP port, 0 for a free one, until stop or
// the end of the test.
func listen(t *testing.T, at netip.AddrPort, serve func(net.Conn)) (netip.AddrPort, func()) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	stop := func() {
		if err := l.Close(); err == nil {
			<-ended
		}
	}
	t.Cleanup(stop)
	return l.Addr().(*net.TCPAddr).AddrPort(), stop
}

func anyPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

// refused is an endpoint that nobody listens on.
func refused(t *testing.T, a netip.Addr) netip.AddrPort {
	t.Helper()
	to, stop := listen(t, anyPort(a), func(net.Conn) {})
	stop()
	return to
}

// blackhole is an endpoint that leaves connection attempts without an answer:
// a listener whose queue is full.
func blackhole(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(fd, local), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.AddrFrom4(local.Addr), uint16(name.(*unix.SockaddrInet4).Port))
	for {
		conn, err := net.DialTimeout("tcp", to.String(), 100*time.Millisecond)
		if isTimeout(err) {
			return to
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// inNamespace runs f on a thread in a network namespace of its own, with the
// loopback interface up.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	ended := make(chan error)
	go func() {
		// The thread is not unlocked: it ends with this goroutine, and the
		// namespace with it.
		runtime.LockOSThread()
		err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), loopbackUp())
		if err == nil {
			f()
		}
		ended <- err
	}()
	if err := <-ended; err != nil {
		t.Fatalf("make a network namespace (this test needs root): %v", err)
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// write sets a sysctl of the calling thread's namespace.
func write(t *testing.T, path, value string) {
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Error(err)
	}
}

func wantOutcome(t *testing.T, got outcome, result, detail string) {
	t.Helper()
	if got.result != result || got.detail != detail {
		t.Errorf("got %s, %s; want %s, %s", got.result, got.detail, result, detail)
	}
	want := model.HealthDown
	switch result {
	case L4OK, L7OK:
		want = model.HealthUp
	case SOCKERR:
		want = model.HealthUnknown
	}
	if got.health != want {
		t.Errorf("%s argues for %v, want %v", got.result, got.health, want)
	}
}

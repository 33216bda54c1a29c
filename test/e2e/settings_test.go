package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// get asks for a path on a port, with curl from the client.
func (r *rig) get(address netip.Addr, port uint16, path string, args ...string) (string, error) {
	r.t.Helper()
	out, err := r.Client.Run("curl", append(append([]string{"-sS"}, args...), "http://"+netip.AddrPortFrom(address, port).String()+path)...)
	return strings.TrimSpace(out), err
}

// TestPorts balances ports, ranges of ports and all others, of which the more
// precise takes precedence.
func TestPorts(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	both := []netip.Addr{vip4, vip6}
	r := startWith(t, lab.Options{}, setup{vips: both, ports: []uint16{80, 8001, 8002, 8003}})
	on := func(ports string) []string {
		return []string{vip4.String() + ":" + ports, "[" + vip6.String() + "]:" + ports}
	}
	for i, service := range []struct{ name, ports, mode string }{{"exact", "8001", "dsr-l2"}, {"range", "8001-8002", "dsr-gue"}} {
		r.cli("pool", "add", service.name, r.Backends[i].V4.String())
		r.cli(append([]string{"vip", "add", service.name, "--mode", service.mode, "--pool", service.name}, on(service.ports)...)...)
	}
	for _, vip := range both {
		for _, port := range []uint16{80, 8003} {
			if out, err := r.get(vip, port, "/", "--connect-timeout", "0.3"); err == nil {
				t.Errorf("no VIP has port %d of %s, and %s answers", port, vip, out)
			}
		}
	}
	r.cli("pool", "add", "rest", r.Backends[2].V4.String())
	r.cli(append([]string{"vip", "add", "rest", "--mode", "dsr-ipip", "--pool", "rest"}, on("any")...)...)
	for _, vip := range both {
		for port, b := range map[uint16]*lab.Host{8001: r.Backends[0], 8002: r.Backends[1], 8003: r.Backends[2], 80: r.Backends[2]} {
			if out, err := r.get(vip, port, "/", "--max-time", "10"); err != nil || out != b.Name {
				t.Errorf("port %d of %s leads to %q, want %s: %v", port, vip, out, b.Name, err)
			}
			if out, err := r.get(vip, port, "/server", "--max-time", "10"); err != nil || out != fmt.Sprintf("%s %d", vip, port) {
				t.Errorf("port %d of %s: the server was asked at %q: %v", port, vip, out, err)
			}
		}
	}
}

// TestMSS looks at how large the segments are that backends may send.
func TestMSS(t *testing.T) {
	t.Parallel()
	all := ways()
	r := startWith(t, lab.Options{}, setup{vips: vipsOf(all)})
	r.addPools()
	shape := regexp.MustCompile(`\bmss:(\d+)\b`)
	// segment is the largest that the backend of a new connection may send.
	segment := func(vip netip.Addr) int {
		t.Helper()
		conn, err := r.Client.Dial(t.Context(), "tcp", endpoint(vip), netip.Addr{})
		r.must(err)
		defer conn.Close()
		// Once the backend has answered it knows that the connection stands.
		name, err := r.askOver(&kept{Conn: conn, reader: bufio.NewReader(conn)})
		r.must(err)
		b, err := r.Host(name)
		r.must(err)
		out, err := b.Run("ss", "-Htin", "state", "established", "dst", conn.LocalAddr().String())
		r.must(err)
		mss := shape.FindStringSubmatch(out)
		if mss == nil {
			t.Fatalf("ss on %s says nothing of %s: %s", name, conn.LocalAddr(), out)
		}
		n, err := strconv.Atoi(mss[1])
		r.must(err)
		return n
	}
	// Of a segment, 12 bytes are TCP's time stamps.
	const options = 12
	for _, w := range all {
		r.addVIP(w.name, w.vip, w.mode, w.pool)
		whole := 1500 - 40
		if w.vip.Is6() {
			whole = 1500 - 60
		}
		for _, row := range []struct {
			mss  string
			want int
		}{{"0", whole}, {"1200", 1200}, {"9000", whole}} {
			r.cli("vip", "set", w.name, "--mss", row.mss)
			if got := segment(w.vip); got != row.want-options {
				t.Errorf("%s: with --mss %s, backends send segments of %d bytes, want %d", w.name, row.mss, got, row.want-options)
			}
		}
	}
}

// TestAffinityOfClients sends all connections of a client to one backend, and those
// of many clients to all.
func TestAffinityOfClients(t *testing.T) {
	t.Parallel()
	all := ways()
	r := startWith(t, lab.Options{}, setup{vips: vipsOf(all)})
	r.addPools()
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			on.addVIP(w.name, w.vip, w.mode, w.pool)
			// The control: without affinity, a client's connections are spread.
			if got := on.backendsOf(w.vip, source(w.vip, 1)); len(got) < 2 {
				t.Errorf("a client's connections reach %v", got)
			}
			on.cli("vip", "set", w.name, "--affinity", "source")
			for i := range 5 {
				if got := on.backendsOf(w.vip, source(w.vip, 1+i)); len(got) != 1 {
					t.Errorf("a client's connections reach %v", got)
				}
			}
			if got := on.fetch(w.vip, 100); len(got) != len(on.Backends) {
				t.Errorf("a hundred clients reach %v", got)
			}
		})
	}
}

// backendsOf are the backends that 50 connections from an address reach.
func (r *rig) backendsOf(vip, from netip.Addr) []string {
	r.t.Helper()
	out, err := r.get(vip, 80, "/?[1-50]", "--max-time", "30", "--interface", from.String(), "-H", "Connection: close")
	r.must(err)
	names := strings.Fields(out)
	if len(names) != 50 {
		r.t.Errorf("%d of 50 requests are answered", len(names))
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// kept is a connection that stays open.
type kept struct {
	net.Conn
	reader  *bufio.Reader
	backend string
}

// askOver asks who is at the other end.
func (r *rig) askOver(k *kept) (string, error) {
	if err := k.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(k, "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(k.reader, nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return strings.TrimSpace(string(body)), err
}

// keep opens connections, each from an address of its own.
func (r *rig) keep(vip netip.Addr, n int) []*kept {
	r.t.Helper()
	var all []*kept
	for i := range n {
		conn, err := r.Client.Dial(r.t.Context(), "tcp", endpoint(vip), source(vip, 1+i))
		r.must(err)
		all = append(all, r.kept(conn))
	}
	return all
}

// kept asks over a connection that is to stay open, until the test ends.
func (r *rig) kept(conn net.Conn) *kept {
	r.t.Helper()
	r.t.Cleanup(func() { conn.Close() })
	k := &kept{Conn: conn, reader: bufio.NewReader(conn)}
	var err error
	k.backend, err = r.askOver(k)
	r.must(err)
	return k
}

// broken is how many connections do not work any more.
func (r *rig) broken(all []*kept) int {
	n := 0
	for _, k := range all {
		if backend, err := r.askOver(k); err != nil || backend != k.backend {
			n++
		}
	}
	return n
}

// TestAffinityChange changes the affinity of VIPs with open connections. New
// connections go by the new one, and all that are open stay.
func TestAffinityChange(t *testing.T) {
	t.Parallel()
	all := ways()
	r := startWith(t, lab.Options{}, setup{vips: vipsOf(all)})
	r.addPools()
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			const n = 40
			on := r.within(t)
			on.addVIP(w.name, w.vip, w.mode, w.pool)
			open := on.keep(w.vip, n)
			on.cli("vip", "set", w.name, "--affinity", "source")
			if got := on.backendsOf(w.vip, source(w.vip, 100)); len(got) != 1 {
				t.Errorf("with affinity, a client's connections reach %v", got)
			}
			for range 2 {
				if got := on.broken(open); got > 0 {
					t.Errorf("the change broke %d of %d connections", got, n)
				}
			}
			// The control: a VIP that remembers nothing breaks them.
			on.cli("vip", "remove", w.name)
			on.addVIP(w.name, w.vip, w.mode, w.pool)
			on.cli("vip", "set", w.name, "--tracking", "none")
			open = on.keep(w.vip, n)
			on.cli("vip", "set", w.name, "--affinity", "source")
			if got := on.broken(open); got == 0 {
				t.Errorf("nothing is remembered, and none of %d connections breaks", n)
			}
		})
	}
}

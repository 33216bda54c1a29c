package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// roomLimit is the limit of each of the two backends, roomTries how many clients come.
	roomLimit = 20
	roomTries = 60
	// roomLeast is how many each has at least when it is full: a packet that comes late of a
	// connection that is over takes a place for a while.
	roomLeast = roomLimit * 3 / 4
	// dialPatience lets a client's SYN come again twice, after 1 s and after 3 s.
	dialPatience = 5 * time.Second
)

// room is what the CLI tells of a backend's limit.
type room struct {
	Address        netip.Addr `json:"address"`
	MaxConnections uint32     `json:"max_connections"`
	Counted        uint64     `json:"counted_connections"`
	Full           bool       `json:"full"`
	Slots          int        `json:"slots"`
}

func (r *rig) rooms(pool string) []room {
	r.t.Helper()
	return show[struct {
		Backends []room `json:"backends"`
	}](r, "pool", "show", pool).Backends
}

// hold has clients connect, all at the same time, and returns the connections that came about.
func (r *rig) hold(to netip.AddrPort, n int) []net.Conn {
	r.t.Helper()
	var held []net.Conn
	var mu sync.Mutex // guards held
	var dials sync.WaitGroup
	for range n {
		dials.Go(func() {
			ctx, cancel := context.WithTimeout(r.t.Context(), dialPatience)
			defer cancel()
			conn, err := r.Client.Dial(ctx, "tcp", to.String(), netip.Addr{})
			if err != nil {
				return // refused: that is what is counted
			}
			mu.Lock()
			held = append(held, conn)
			mu.Unlock()
		})
	}
	dials.Wait()
	r.t.Cleanup(func() {
		for _, conn := range held {
			conn.Close()
		}
	})
	return held
}

// wantAnswers wants every connection to be served still.
func (r *rig) wantAnswers(when string, held []net.Conn) {
	r.t.Helper()
	for i, conn := range held {
		err := conn.SetDeadline(time.Now().Add(patience))
		if err == nil {
			_, err = fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if err == nil {
			_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		}
		if err != nil {
			r.t.Errorf("%s: connection %d of %d is not served: %v", when, i, len(held), err)
		}
	}
}

// established counts what a web server has, by its own kernel.
func (r *rig) established(b *lab.Host, port uint16) int {
	r.t.Helper()
	out, err := b.Run("ss", "-Htn", "state", "established", "sport", "=", fmt.Sprintf(":%d", port))
	r.must(err)
	return strings.Count(out, "\n")
}

// wantFull wants backends to have as many connections as they may, and none more.
func (r *rig) wantFull(when string, held []net.Conn, port uint16) {
	r.t.Helper()
	if n := len(held); n > 2*roomLimit || n < 2*roomLeast {
		r.t.Errorf("%s: %d clients are in, want %d", when, n, 2*roomLimit)
	}
	for _, b := range r.Backends {
		if n := r.established(b, port); n > roomLimit || n < roomLeast {
			r.t.Errorf("%s: %s has %d connections, want %d", when, b.Name, n, roomLimit)
		}
	}
}

// TestBackendLimit: of the clients that come so many get in as the backends may have, and
// others when some have gone. Who is in stays. The control: without limits all get in.
func TestBackendLimit(t *testing.T) {
	t.Parallel()
	t.Run("dsr-ipip", func(t *testing.T) {
		t.Parallel()
		address, _ := lab.VIP(1)
		r := start(t, lab.Options{Backends: 2}, address)
		r.cli("pool", "add", "v4", r.Backends[0].V4.String(), r.Backends[1].V4.String())
		r.roomsOf(address, "dsr-ipip", 80)
	})
	for mode, returns := range map[string]lab.Return{"nat": lab.ReturnGateway, "fullnat": lab.ReturnSNAT} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			address, _ := lab.VIP(6)
			r := startWith(t, lab.Options{Backends: 2, Return: returns}, setup{ports: []uint16{natPort}, more: natConfig("")})
			r.addPortPools("", natPort)
			r.roomsOf(address, mode, natPort)
		})
	}
}

// roomsOf tests the limits of the backends of the pool "v4", whose servers listen on a port.
func (r *rig) roomsOf(address netip.Addr, mode string, port uint16) {
	t := r.t
	r.cli("vip", "add", "web", endpoint(address), "--mode", mode, "--pool", "v4", "--tracking", "always")
	r.waitUp("v4", r.Backends...)
	to := netip.AddrPortFrom(address, 80)
	if held := r.hold(to, roomTries); len(held) != roomTries {
		t.Fatalf("without limits %d of %d clients get in: the test shows nothing", len(held), roomTries)
	} else {
		for _, conn := range held {
			conn.Close()
		}
	}
	r.limitBackends(port, roomLimit)
	r.wait("the connections before have ended", func() error { return r.counted(0) })

	held := r.hold(to, roomTries)
	r.wantFull("at first", held, port)
	if n := r.status().Reasons["drop_limit_backend"]; n < roomTries-2*roomLimit {
		t.Errorf("%d packets are counted as drop_limit_backend", n)
	}
	// It is known to be full after the next sweep.
	r.wait("the CLI tells of full backends", func() error {
		for _, b := range r.rooms("v4") {
			if !b.Full || b.Counted > roomLimit || b.Counted < roomLeast {
				return fmt.Errorf("of a full backend the CLI tells %+v", b)
			}
		}
		return nil
	})
	r.wantAnswers("while all is full", held)

	const leave = 10
	for _, conn := range held[:leave] {
		conn.Close()
	}
	held = held[leave:]
	r.wait("who has gone makes room", func() error { return r.counted(uint64(len(held))) })
	held = append(held, r.hold(to, roomTries)...)
	r.wantFull("when some have gone", held, port)
	r.stopDaemon()
	held = append(held, r.hold(to, roomTries/2)...)
	r.wantFull("without a daemon", held, port)
	r.startDaemon()
	held = append(held, r.hold(to, roomTries/2)...)
	r.wantFull("after a restart", held, port)
	r.limitBackends(port, 5)
	r.wantAnswers("with a lower limit", held)
	r.refused(5, "vip", "set", "web", "--mode", "dsr-l2", "--tracking", "flux")
}

// limitBackends gives all backends of the pool "v4" a limit.
func (r *rig) limitBackends(port uint16, limit int) {
	r.t.Helper()
	set := []string{"backend", "set", "v4"}
	for _, b := range r.Backends {
		name := b.V4.String()
		if port != 80 {
			name = netip.AddrPortFrom(b.V4, port).String()
		}
		set = append(set, name)
	}
	r.cli(append(set, "--max-connections", fmt.Sprint(limit))...)
}

// counted wants a sweep to have counted so many connections of the pool "v4".
func (r *rig) counted(want uint64) error {
	var n uint64
	for _, b := range r.rooms("v4") {
		if b.MaxConnections == 0 {
			return fmt.Errorf("no limit: %+v", b)
		}
		n += b.Counted
	}
	if n != want {
		return fmt.Errorf("%d connections are counted, want %d", n, want)
	}
	return nil
}

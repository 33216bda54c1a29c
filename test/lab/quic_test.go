package lab_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	quicPort = 443
	// quicPatience is how long an answer may take on a path that works.
	quicPatience = 10 * time.Second
	// quicSilence is how long to wait for an answer that does not come.
	quicSilence = time.Second
)

// startQUIC starts a server that echoes.
func startQUIC(t *testing.T, h *lab.Host, serverID ...byte) *lab.QUICServer {
	t.Helper()
	server, err := h.QUIC(lab.QUICOptions{Port: quicPort, ServerID: serverID, Handle: lab.Echo(h.Name)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func dialQUIC(t *testing.T, from *lab.Host, to, source netip.Addr, v2 bool) *lab.QUICConn {
	t.Helper()
	conn, err := from.DialQUIC(deadline(t), netip.AddrPortFrom(to, quicPort), source, v2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestQUICMoves has clients move in every way, without a balancer: the server
// follows them.
func TestQUICMoves(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	backend := l.Backends[0]
	startQUIC(t, backend, 0xc4, 0x60, 0x5e)
	for _, path := range []struct {
		name            string
		to, source, new netip.Addr
		v2              bool
	}{
		{"v4", backend.V4, netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"), false},
		{"v6", backend.V6, netip.MustParseAddr("2001:db8:113::1"), netip.MustParseAddr("2001:db8:113::2"), false},
		{"v4-QUIC-v2", backend.V4, netip.MustParseAddr("203.0.113.3"), netip.MustParseAddr("203.0.113.2"), true},
	} {
		t.Run(path.name, func(t *testing.T) {
			conn := dialQUIC(t, l.Client, path.to, path.source, path.v2)
			number := uint64(0)
			// followed asks until the server sees the client where it is now: it
			// answers to the former address until it has validated the new one.
			followed := func(how string) {
				t.Helper()
				for until := time.Now().Add(quicPatience); ; {
					number++
					answer, err := conn.Ask(number, quicPatience)
					if err != nil || answer.Server != backend.Name || time.Now().After(until) {
						t.Fatalf("%s to %s: %+v, %v", how, conn.LocalAddr(), answer, err)
					}
					if answer.Client == conn.LocalAddr().String() {
						return
					}
				}
			}
			followed("begin")
			for _, move := range []struct {
				name string
				do   func() error
			}{
				{"rebind", conn.Rebind},
				{"rebind", conn.Rebind},
				{"migrate", func() error { return conn.Migrate(deadline(t)) }},
				{"rebind after a migration", conn.Rebind},
				{"migrate to another address", func() error { conn.From(path.new); return conn.Migrate(deadline(t)) }},
				{"rebind to another address", conn.Rebind},
			} {
				former := conn.LocalAddr().String()
				if err := move.do(); err != nil {
					t.Fatalf("%s: %v", move.name, err)
				}
				if conn.LocalAddr().String() == former {
					t.Fatalf("%s left the client at %s", move.name, former)
				}
				followed(move.name)
			}
			// More often than the server issues connection IDs at once.
			for range 10 {
				if err := conn.Migrate(deadline(t)); err != nil {
					t.Fatal(err)
				}
				followed("migrate again")
			}
		})
	}
}

// TestQUICNoticesBreaks has connections whose packets come to another server, which
// does not know them, or to nobody.
func TestQUICNoticesBreaks(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 2})
	startQUIC(t, l.Backends[0])
	startQUIC(t, l.Backends[1])
	for _, b := range l.Backends {
		if err := b.PlainDSR(mustVIP()); err != nil {
			t.Fatal(err)
		}
	}
	route := func(b *lab.Host) {
		t.Helper()
		if _, err := l.Router.Run("ip", "route", "replace", mustVIP().String()+"/32", "via", b.V4.String()); err != nil {
			t.Fatal(err)
		}
	}
	route(l.Backends[0])
	conn := dialQUIC(t, l.Client, mustVIP(), netip.Addr{}, false)
	if answer, err := conn.Ask(1, quicPatience); err != nil || answer.Server != l.Backends[0].Name {
		t.Fatalf("%+v, %v", answer, err)
	}
	route(l.Backends[1])
	var reset *quic.StatelessResetError
	if answer, err := conn.Ask(2, quicPatience); !errors.As(err, &reset) {
		t.Errorf("asked a server that does not know the connection: %+v, %v; want a stateless reset", answer, err)
	}
	// What broke it is where its packets went.
	other := dialQUIC(t, l.Client, mustVIP(), netip.Addr{}, false)
	if answer, err := other.Ask(1, quicPatience); err != nil || answer.Server != l.Backends[1].Name {
		t.Errorf("%+v, %v", answer, err)
	}
	if _, err := l.Router.Run("ip", "route", "replace", "blackhole", mustVIP().String()+"/32"); err != nil {
		t.Fatal(err)
	}
	if answer, err := other.Ask(2, quicSilence); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("asked nobody: %+v, %v", answer, err)
	}
}

func mustVIP() netip.Addr {
	v4, _ := lab.VIP(1)
	return v4
}

// TestQUICStreamEnds closes a stream from the client's side, and has the server
// stop under another.
func TestQUICStreamEnds(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	server, err := l.Backends[0].QUIC(lab.QUICOptions{Port: quicPort, Handle: lab.Echo("echo")})
	if err != nil {
		t.Fatal(err)
	}
	one := dialQUIC(t, l.Client, l.Backends[0].V4, netip.Addr{}, false)
	other := dialQUIC(t, l.Client, l.Backends[0].V4, netip.Addr{}, false)
	for _, conn := range []*lab.QUICConn{one, other} {
		if _, err := conn.Ask(1, quicPatience); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Ask(2, quicSilence); err == nil {
		t.Error("an answer to what a closed stream said")
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := other.Ask(2, quicPatience); err == nil {
		t.Error("a stopped server answered")
	}
}

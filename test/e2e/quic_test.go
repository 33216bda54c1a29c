package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	quicConnections = 20
	quicMoves       = 5
	// quicPatience is how long an answer may take: packets that are lost are
	// sent again and again within it. A server that does not know a connection
	// says so at once.
	quicPatience = 10 * time.Second
)

// quicService is a way for servers to issue connection IDs, on a port of its own.
type quicService struct {
	name string
	port uint16
	// serverID is that of the n-th backend, from 1; nil for ordinary connection IDs.
	serverID func(n int) []byte
	config   uint8
}

func quicServices() (short, long, ordinary quicService) {
	return quicService{"short", 443, func(n int) []byte { return []byte{0xc4, 0x60, byte(n)} }, 0},
		quicService{"long", 444, func(n int) []byte { return append(make([]byte, 12), byte(n)) }, 6},
		quicService{"ordinary", 445, nil, 0}
}

// addQUICPool makes a pool of all backends, with the server IDs of these services.
func (r *rig) addQUICPool(pool string, address func(*lab.Host) netip.Addr, services ...quicService) {
	r.t.Helper()
	r.cli("pool", "add", pool)
	for i, b := range r.Backends {
		add := []string{"backend", "add", pool, address(b).String()}
		for _, s := range services {
			if s.serverID != nil {
				add = append(add, "--server-id", fmt.Sprintf("%d:%x", s.config, s.serverID(i+1)))
			}
		}
		r.cli(add...)
	}
}

// startQUIC starts a server for each service on every backend.
func (r *rig) startQUIC(services ...quicService) {
	r.t.Helper()
	for i, b := range r.Backends {
		for _, s := range services {
			o := lab.QUICOptions{Port: s.port, Config: s.config, Handle: lab.Echo(b.Name)}
			if s.serverID != nil {
				o.ServerID = s.serverID(i + 1)
			}
			server, err := b.QUIC(o)
			r.must(err)
			r.t.Cleanup(func() {
				if err := server.Stop(); err != nil {
					r.t.Errorf("stop the QUIC server of %s: %v", b.Name, err)
				}
			})
		}
	}
}

func (r *rig) addQUIC(name string, target netip.AddrPort, mode, pool string) {
	r.t.Helper()
	r.cli("vip", "add", name, target.String(), "--protocol", "udp", "--quic", "--mode", mode, "--pool", pool)
}

// TestQUIC has clients whose ports change many times while they are connected. With
// connection IDs that name their servers, every one stays with its own; the
// control, servers that know nothing of load balancers, loses most of them.
func TestQUIC(t *testing.T) {
	t.Parallel()
	short, long, ordinary := quicServices()
	ipip4, ipip6 := lab.VIP(1)
	gue4, gue6 := lab.VIP(2)
	l24, l26 := lab.VIP(3)
	r := start(t, lab.Options{}, ipip4, ipip6, gue4, gue6, l24, l26)
	r.startQUIC(short, long, ordinary)
	r.addQUICPool("v4", v4, short, long, ordinary)
	r.addQUICPool("v6", v6, short, long, ordinary)
	for _, path := range []struct {
		name, mode, pool string
		address          netip.Addr
	}{
		{"dsr-ipip-v4", "dsr-ipip", "v4", ipip4},
		{"dsr-ipip-v6", "dsr-ipip", "v6", ipip6},
		{"dsr-gue-v4", "dsr-gue", "v4", gue4},
		{"dsr-gue-v6", "dsr-gue", "v6", gue6},
		{"dsr-l2-v4", "dsr-l2", "v4", l24},
		{"dsr-l2-v6", "dsr-l2", "v6", l26},
	} {
		for _, s := range []quicService{short, long, ordinary} {
			t.Run(path.name+"-"+s.name, func(t *testing.T) {
				on := *r
				on.t = t
				target := netip.AddrPortFrom(path.address, s.port)
				on.addQUIC(fmt.Sprintf("%s-%s", path.name, s.name), target, path.mode, path.pool)
				clients := on.dialQUIC(target, quicConnections)
				if s.serverID == nil {
					moveAll(clients, rebind)
					moveAll(clients, rebind)
					if lost := on.lost(clients); lost == 0 {
						t.Errorf("none of %d connections is lost: these moves prove nothing", len(clients))
					}
					return
				}
				for range quicMoves {
					moveAll(clients, rebind)
				}
				moveAll(clients, migrate)
				moveAll(clients, rebind)
				if lost := on.lost(clients); lost > 0 {
					t.Errorf("%d of %d connections are lost", lost, len(clients))
				}
			})
		}
	}
}

// TestQUICDrain drains a backend: its connections stay wherever their clients move,
// and it gets no others. Disabled, it loses them.
func TestQUICDrain(t *testing.T) {
	t.Parallel()
	short, _, _ := quicServices()
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{}, vip4, vip6)
	r.startQUIC(short)
	r.addQUICPool("v4", v4, short)
	r.addQUICPool("v6", v6, short)
	for _, path := range []struct {
		name    string
		vip     netip.Addr
		address func(*lab.Host) netip.Addr
	}{{"v4", vip4, v4}, {"v6", vip6, v6}} {
		t.Run(path.name, func(t *testing.T) {
			on := *r
			on.t = t
			target := netip.AddrPortFrom(path.vip, short.port)
			on.addQUIC("drained-"+path.name, target, "dsr-ipip", path.name)
			clients := on.dialQUIC(target, quicConnections)
			drained := on.Backends[0]
			on.cli("backend", "drain", path.name, path.address(drained).String())
			for range quicMoves {
				moveAll(clients, rebind)
			}
			if lost := on.lost(clients); lost > 0 {
				t.Errorf("%d of %d connections are lost", lost, len(clients))
			}
			for _, c := range on.dialQUIC(target, quicConnections) {
				// A port that a client has had while it moved may come again, and is known.
				if c.Before == drained.Name && on.dialQUIC(target, 1)[0].Before == drained.Name {
					t.Errorf("%s drains and got a new connection", drained.Name)
				}
			}
			on.cli("backend", "disable", path.name, path.address(drained).String())
			moveAll(clients, rebind)
			for _, c := range clients {
				if (c.Error != "") != (c.Before == drained.Name) {
					t.Errorf("after %s was disabled: %+v", drained.Name, c)
				}
			}
		})
	}
}

// quicClient is a connection and what became of it, as a line of JSON.
type quicClient struct {
	conn *lab.QUICConn
	// Before is who answered first; After who answered last.
	Before string `json:"before"`
	After  string `json:"after"`
	// Moves is how often it moved and was answered after.
	Moves int    `json:"moves"`
	Error string `json:"error,omitempty"`
}

// dialQUIC opens connections that last until the test ends, all of which have to be
// answered. Every other one is of QUIC version 2.
func (r *rig) dialQUIC(target netip.AddrPort, n int) []*quicClient {
	r.t.Helper()
	var clients []*quicClient
	for i := range n {
		conn, err := r.Client.DialQUIC(r.t.Context(), target, netip.Addr{}, i%2 == 1)
		r.must(err)
		r.t.Cleanup(func() { conn.Close() })
		answer, err := conn.Ask(0, quicPatience)
		r.must(err)
		clients = append(clients, &quicClient{conn: conn, Before: answer.Server, After: answer.Server})
	}
	return clients
}

// rebind is a move that the client does not know of.
func rebind(conn *lab.QUICConn) error { return conn.Rebind() }

// migrate is one of its own will.
func migrate(conn *lab.QUICConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), quicPatience)
	defer cancel()
	return conn.Migrate(ctx)
}

// moveAll moves all clients that are still connected, and wants each answered.
func moveAll(clients []*quicClient, move func(*lab.QUICConn) error) {
	var all sync.WaitGroup
	for _, c := range clients {
		if c.Error != "" {
			continue
		}
		all.Go(func() {
			err := move(c.conn)
			if err == nil {
				var answer lab.QUICAnswer
				if answer, err = c.conn.Ask(uint64(c.Moves)+1, quicPatience); err == nil {
					c.After = answer.Server
				}
			}
			if err != nil {
				c.Error = err.Error()
				return
			}
			c.Moves++
		})
	}
	all.Wait()
}

// lost reports on clients and counts those that lost their server.
func (r *rig) lost(clients []*quicClient) int {
	r.t.Helper()
	lost, servers := 0, map[string]bool{}
	for _, c := range clients {
		line, err := json.Marshal(c)
		r.must(err)
		r.t.Logf("%s", line)
		servers[c.Before] = true
		if c.Error != "" || c.After != c.Before {
			lost++
		}
	}
	// So few connections miss one of the backends by chance, but not all of them but one.
	if len(servers) < 2 {
		r.t.Errorf("only %d of %d backends got connections", len(servers), len(r.Backends))
	}
	return lost
}

// Package scale measures the built daemon under large states. The tests run the
// benchmarks' scenarios in small, so that they do not rot.
package scale

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/store"
	"github.com/steelyard-lb/steelyard/test/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// size of a desired state: so many VIPs over so many pools of so many backends each.
type size struct {
	vips, pools, backends int
	check                 *model.Check
}

const tableSize = 65537

// state has VIPs in 198.18.0.0/15 and backends in 10.64.0.0/10.
func (s size) state() model.State {
	var state model.State
	for i := range s.pools {
		pool := model.Pool{
			Name: fmt.Sprintf("pool-%04d", i), TableSize: tableSize, OnAllDown: model.OnAllDownDrop, DownGrace: model.DefaultDownGrace,
		}
		if s.check != nil {
			pool.Checks = []model.Check{*s.check}
		}
		for j := range s.backends {
			n := i*s.backends + j
			addr := netip.AddrFrom4([4]byte{10, 64 + byte(n>>16), byte(n >> 8), byte(n)})
			pool.Backends = append(pool.Backends, model.Backend{BackendID: model.BackendID{Address: addr}, Weight: 1, State: model.Enabled})
		}
		state.Pools = append(state.Pools, pool)
	}
	for i := range s.vips {
		vip := model.VIP{
			Name: fmt.Sprintf("vip-%05d", i), Pool: state.Pools[i%s.pools].Name, Protocol: model.TCP, Mode: model.ModeDSRIPIP,
			Endpoints: []model.Endpoint{{
				Address: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), Ports: model.PortRange{First: 443, Last: 443},
			}},
			IdleTimeout: model.DefaultIdleTimeout, Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow,
		}
		vip.Tracking = vip.DefaultTracking()
		state.VIPs = append(state.VIPs, vip)
	}
	state.Sort()
	return state
}

// limits are those that hold the state, all else as it comes.
func (s size) limits() string {
	place := 8
	for place < s.backends {
		place *= 2
	}
	lines := (tableSize + 15) / 16 * 16
	return fmt.Sprintf("limits:\n  vips: %d\n  endpoints: %d\n  pools: %d\n  backends: %d\n  slots: %d\n",
		s.vips, s.vips, s.pools, s.pools*place, s.pools*lines)
}

// balancer is the host of a daemon whose store has a state. All backends are behind
// one host, which has all their addresses.
type balancer struct {
	testing.TB
	*lab.Lab
	binary string
	config string
	// notices are what the daemon tells who started it; see sd_notify(3).
	notices *net.UnixConn
}

func newBalancer(t testing.TB, s size) *balancer {
	t.Helper()
	b := &balancer{TB: t, Lab: lab.Start(t, lab.Options{Backends: 1})}
	host := b.Balancer
	path := filepath.Join(host.Dir(), "state.db")
	db, err := store.Open(path)
	b.must(err)
	_, err = db.Save(0, s.state(), "a large state")
	b.must(err)
	b.must(db.Close())
	b.binary, err = lab.Binary()
	b.must(err)
	notices := filepath.Join(host.Dir(), "notices")
	b.notices, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notices, Net: "unixgram"})
	b.must(err)
	b.Cleanup(func() { b.notices.Close() })
	b.Setenv("NOTIFY_SOCKET", notices)
	b.config = filepath.Join(host.Dir(), "steelyard.yaml")
	b.must(os.WriteFile(b.config, fmt.Appendf(nil, "interfaces: [eth0]\napi:\n  socket: %s\nmetrics:\n  listen: \"\"\nstore: %s\npin_path: %s\ndetach_on_exit: true\n%s",
		b.socket(), path, filepath.Join(b.BPFFS(), host.Name), s.limits()), 0o644))
	_, err = b.Backends[0].Run("ip", "route", "add", "local", "10.64.0.0/10", "dev", "lo")
	b.must(err)
	_, err = host.Run("ip", "route", "add", "10.64.0.0/10", "via", b.Backends[0].V4.String())
	b.must(err)
	return b
}

func (b *balancer) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *balancer) socket() string { return filepath.Join(b.Balancer.Dir(), "api.sock") }

// start runs the daemon until it says that it is ready, and returns how long that took.
func (b *balancer) start() (*lab.Process, time.Duration) {
	b.Helper()
	began := time.Now()
	p, err := b.Balancer.Start("steelyard-daemon", b.binary, "daemon", "--config", b.config)
	b.must(err)
	b.must(b.notices.SetReadDeadline(began.Add(time.Minute)))
	notice := make([]byte, 64)
	n, err := b.notices.Read(notice)
	if err != nil || string(notice[:n]) != "READY=1" {
		b.Fatalf("the daemon said %q instead of READY=1: %v", notice[:n], err)
	}
	return p, time.Since(began)
}

// stop ends the daemon, and what would outlive it.
func (b *balancer) stop(p *lab.Process) {
	b.Helper()
	b.must(p.Stop())
	notice := make([]byte, 64)
	_, err := b.notices.Read(notice) // that it is stopping
	b.must(err)
}

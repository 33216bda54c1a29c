package dataplane

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// site is a large desired state with the paths to all its backends.
type site struct {
	desired model.State
	paths   map[netip.Addr]forwarding.Path
	down    model.BackendID
	last    forwarding.State
}

// newSite spreads VIPs over pools of as many backends each.
func newSite(vips, pools, backends int, slots uint32) *site {
	s := &site{paths: map[netip.Addr]forwarding.Path{}}
	for i := range pools {
		pool := model.Pool{Name: fmt.Sprintf("pool-%04d", i), TableSize: slots, DownGrace: time.Hour}
		for j := range backends {
			n := i*backends + j
			addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
			pool.Backends = append(pool.Backends, model.Backend{BackendID: model.BackendID{Address: addr}, Weight: 1, State: model.Enabled})
			s.paths[addr] = forwarding.Path{Link: loopback, OnLink: true, MTU: mtu, Outer: netip.MustParseAddr("192.0.2.1")}
		}
		s.desired.Pools = append(s.desired.Pools, pool)
	}
	for i := range vips {
		addr := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		s.desired.VIPs = append(s.desired.VIPs, model.VIP{
			Name: fmt.Sprintf("vip-%05d", i), Pool: s.desired.Pools[i%pools].Name, Protocol: model.TCP, Mode: model.ModeDSRIPIP,
			Endpoints:   []model.Endpoint{{Address: addr, Ports: model.PortRange{First: 443, Last: 443}}},
			IdleTimeout: model.DefaultIdleTimeout, Tracking: model.TrackingFlux,
		})
	}
	s.desired.Sort()
	return s
}

func (s *site) limits() Limits {
	pools := uint32(len(s.desired.Pools))
	place := ceilPowerOfTwo(uint32(len(s.desired.Pools[0].Backends)))
	line := (s.desired.Pools[0].TableSize + slotsPerLine - 1) / slotsPerLine * slotsPerLine
	vips := uint32(len(s.desired.VIPs))
	return Limits{VIPs: vips, Endpoints: vips, Pools: pools, Backends: pools * place, Slots: pools * line, Flows: 1 << 10}
}

// build computes the forwarding state, with one backend down if there is to be one.
func (s *site) build(t testing.TB) forwarding.State {
	now := time.Now()
	state, err := forwarding.Build(s.desired, func(_ *model.Pool, id model.BackendID) (model.Health, time.Time) {
		if id == s.down {
			return model.HealthDown, now
		}
		return model.HealthUp, time.Time{}
	}, forwarding.Nobody, now, s.last)
	if err != nil {
		t.Fatal(err)
	}
	state.Paths = s.paths
	s.last = state
	return state
}

// The state of the benchmarks, in small: what a change of one backend is to change, does,
// and nothing else.
func TestSiteChange(t *testing.T) {
	s := newSite(20, 4, 10, 251)
	p := loaded(t, s.limits())
	applyTo(t, p, s.build(t))
	down := s.desired.Pools[0].Backends[0].BackendID
	owned := func() (slots int) {
		at := p.applied.places[s.desired.Pools[0].Name]
		for _, word := range at.table.Words() {
			if word.Owner() == at.owners[down] {
				slots++
			}
		}
		return slots
	}
	if n := owned(); n < 25 || n > 26 {
		t.Errorf("control: one of 10 backends owns %d slots of 251", n)
	}
	s.down = down
	applyTo(t, p, s.build(t))
	if n := owned(); n != 0 {
		t.Errorf("a backend that is down owns %d slots", n)
	}
	for _, pool := range s.desired.Pools[1:] {
		if n := p.applied.places[pool.Name].table.InFlux(); n != 0 {
			t.Errorf("%s has %d slots in flux, and nothing of it has changed", pool.Name, n)
		}
	}
}

// large is the state by which the control plane is measured.
func large() *site { return newSite(10_000, 1000, 100, 65537) }

// BenchmarkApplyCold is the time from a desired state to packets that meet all of
// it, with maps that are empty.
func BenchmarkApplyCold(b *testing.B) {
	s := large()
	for range b.N {
		b.StopTimer()
		p, err := Load(withRoom(s.limits()), testOptions())
		if err != nil {
			b.Fatal(err)
		}
		s.last = forwarding.State{}
		b.StartTimer()
		applyTo(b, p, s.build(b))
		b.StopTimer()
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkApplyChange is the time from the decision that one backend of all is down,
// or up again, to the last slot.
func BenchmarkApplyChange(b *testing.B) {
	s := large()
	p := loaded(b, s.limits())
	applyTo(b, p, s.build(b))
	next := s.desired.Pools[0].Backends[0].BackendID
	for b.Loop() {
		s.down, next = next, s.down
		applyTo(b, p, s.build(b))
	}
}

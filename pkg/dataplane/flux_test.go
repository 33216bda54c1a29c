package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// fluxRig is a Plane with pools of backends 10.0.POOL.N, each of which is
// recognised by its MAC in the packets that come out.
type fluxRig struct {
	*testing.T
	plane   *Plane
	desired model.State
	state   forwarding.State
	health  map[netip.Addr]model.Health
	now     flux.Tick
	// ipv6 is the family of VIP and clients; backends are of IPv4 in either case.
	ipv6 bool
}

func newFluxRig(t *testing.T, tracking model.Tracking, protocol model.Protocol) *fluxRig {
	t.Helper()
	plane := loadedWith(t, Limits{VIPs: 16, Endpoints: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: 1 << 16}, Options{Seed: Seed{1, 2}})
	r := &fluxRig{T: t, plane: plane, health: map[netip.Addr]model.Health{}, now: 1000}
	plane.SetClock(r.now)
	r.desired = model.State{
		VIPs: []model.VIP{{
			Name: "web", Endpoints: listen(netip.MustParseAddr("192.0.2.1"), 80), Protocol: protocol, Mode: model.ModeDSRL2,
			Pool: "a", Tracking: tracking, IdleTimeout: 10 * time.Second,
		}},
		Pools: []model.Pool{
			{Name: "a", TableSize: 251, OnAllDown: model.OnAllDownDrop},
			{Name: "b", TableSize: 509, OnAllDown: model.OnAllDownDrop},
		},
	}
	return r
}

// take has the VIP be of a family and a mode.
func (r *fluxRig) take(f family, mode model.Mode) {
	r.ipv6 = f.ipv6
	r.desired.VIPs[0].Endpoints, r.desired.VIPs[0].Mode = listen(f.vip, 80), mode
}

func (r *fluxRig) add(pool, n int) {
	a := netip.AddrFrom4([4]byte{10, 0, byte(pool), byte(n)})
	p := &r.desired.Pools[pool]
	if _, there := p.Backend(model.BackendID{Address: a}); there {
		return
	}
	p.Backends = append(p.Backends, model.Backend{BackendID: model.BackendID{Address: a}, Weight: 1, State: model.Enabled})
	r.health[a] = model.HealthUp
}

func (r *fluxRig) set(pool, n int, state model.AdminState) {
	a := netip.AddrFrom4([4]byte{10, 0, byte(pool), byte(n)})
	b, _ := r.desired.Pools[pool].Backend(model.BackendID{Address: a})
	b.State = state
}

func (r *fluxRig) setAffinity(scope model.AffinityScope) {
	r.desired.VIPs[0].Affinity = model.Affinity{Scope: scope, IPv4Prefix: 32, IPv6Prefix: 128}
}

func (r *fluxRig) apply() {
	r.Helper()
	r.desired.Sort()
	state, err := forwarding.Build(r.desired.Clone(), func(_ *model.Pool, id model.BackendID) (model.Health, time.Time) {
		return r.health[id.Address], time.Time{}
	}, forwarding.Nobody, time.Now(), r.state)
	if err != nil {
		r.Fatal(err)
	}
	state.Paths = map[netip.Addr]forwarding.Path{}
	for a := range r.health {
		b := a.As4()
		state.Paths[a] = forwarding.Path{
			Link: 1, Source: [6]byte{2, 0, 0, 0, 0, 1}, Destination: [6]byte{2, 0, 0, 1, b[2], b[3]}, OnLink: true,
			Outer: netip.MustParseAddr("10.0.0.1"), MTU: 1500,
		}
	}
	if err := r.plane.Apply(state); err != nil {
		r.Fatal(err)
	}
	r.state = state
}

const (
	syn = 0x02
	ack = 0x10
	fin = 0x11
	// Not flags: an ICMP error about the flow.
	icmpError = 0xff
)

// send sends a packet of a flow and returns pool and number of the backend that
// it goes to, or -1 if it is dropped.
func (r *fluxRig) send(flow uint32, flags byte) int {
	r.Helper()
	out := make([]byte, 128)
	verdict, err := r.plane.Program().Run(&ebpf.RunOptions{Data: r.frame(flow, flags), DataOut: out})
	if err != nil {
		r.Fatal(err)
	}
	if verdict != 3 {
		return -1
	}
	return int(binary.BigEndian.Uint16(out[4:6]))
}

func (r *fluxRig) frame(flow uint32, flags byte) []byte {
	if flags == icmpError {
		return aboutFrame(r.frame(flow, ack))
	}
	if r.ipv6 {
		p := r.flowOf(flow)
		segment := p.payload.(tcp)
		segment.flags = flags
		p.payload = segment
		return p.bytes()
	}
	f := make([]byte, 64)
	f[12], f[13] = 8, 0
	ip := f[14:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 40, 64, byte(r.desired.VIPs[0].Protocol)
	binary.BigEndian.PutUint32(ip[12:], 0xc6336400+flow>>12)
	copy(ip[16:], []byte{192, 0, 2, 1})
	binary.BigEndian.PutUint16(ip[20:], uint16(10000+flow&0xfff))
	binary.BigEndian.PutUint16(ip[22:], 80)
	if r.desired.VIPs[0].Protocol == model.UDP {
		binary.BigEndian.PutUint16(ip[24:], 20)
		if r.desired.VIPs[0].QUIC && flags == syn {
			copy(ip[28:], []byte{0xc0, 0, 0, 0, quic1, 8})
		}
		return f
	}
	ip[32], ip[33] = 0x50, flags
	return f
}

// aboutFrame is a router's word that a packet that answers a frame is too big.
func aboutFrame(in []byte) []byte {
	const router = 203<<24 | 113<<8 | 1
	f := make([]byte, 14, 70)
	f[12], f[13] = 8, 0
	f = append(f, 0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0)
	f = append(binary.BigEndian.AppendUint32(f, router), in[30:34]...)
	f = append(f, 3, 4, 0, 0, 0, 0, 5, 0)
	ip := in[14:]
	f = append(append(append(f, ip[:12]...), ip[16:20]...), ip[12:16]...)
	return append(append(append(f, ip[22:24]...), ip[20:22]...), ip[24:28]...)
}

// pass lets time go by and makes a whole pass over the flow table.
func (r *fluxRig) pass(d time.Duration) {
	r.Helper()
	r.now += ticks(d)
	r.plane.SetClock(r.now)
	for {
		done, err := r.plane.Sweep(1 << 12)
		if err != nil {
			r.Fatal(err)
		}
		if done {
			return
		}
	}
}

func (r *fluxRig) events() FlowEvents {
	r.Helper()
	e, err := r.plane.FlowEvents()
	if err != nil {
		r.Fatal(err)
	}
	return e
}

const flows = 2000

// open opens flows and returns where each went.
func (r *fluxRig) open(first, n uint32) map[uint32]int {
	r.Helper()
	at := make(map[uint32]int, n)
	for f := first; f < first+n; f++ {
		at[f] = r.send(f, syn)
		if at[f] < 0 {
			r.Fatalf("flow %d dropped", f)
		}
	}
	return at
}

// broken counts the flows that have moved.
func (r *fluxRig) broken(at map[uint32]int) int {
	r.Helper()
	n := 0
	for f, backend := range at {
		if r.send(f, ack) != backend {
			n++
		}
	}
	return n
}

func TestSettledKeepsNoState(t *testing.T) {
	r := newFluxRig(t, model.TrackingFlux, model.TCP)
	r.add(0, 1)
	r.add(0, 2)
	r.apply()
	r.broken(r.open(0, flows))
	if e := r.events(); e != (FlowEvents{}) || r.plane.NeedsSweep() {
		t.Errorf("settled slots touched the flow table: %+v", e)
	}
}

// churn is what happens to the pools in a test; it ends with everything applied.
var churns = map[string]func(r *fluxRig){
	"add": func(r *fluxRig) {
		for n := 4; n < 9; n++ {
			r.add(0, n)
		}
		r.apply()
	},
	"drain": func(r *fluxRig) { r.set(0, 1, model.Draining); r.apply() },
	"drain and back": func(r *fluxRig) {
		r.set(0, 1, model.Draining)
		r.apply()
		r.set(0, 1, model.Enabled)
		r.apply()
	},
	"weights": func(r *fluxRig) { r.desired.Pools[0].Backends[0].Weight = 7; r.apply() },
	"another pool": func(r *fluxRig) {
		r.add(1, 1)
		r.add(1, 2)
		r.desired.VIPs[0].Pool = "b"
		r.apply()
	},
	"there and back": func(r *fluxRig) {
		r.add(1, 1)
		r.desired.VIPs[0].Pool = "b"
		r.apply()
		r.desired.VIPs[0].Pool = "a"
		r.apply()
	},
	"affinity": func(r *fluxRig) { r.setAffinity(model.AffinitySource); r.apply() },
	"affinity and pool": func(r *fluxRig) {
		r.add(1, 1)
		r.add(1, 2)
		r.desired.VIPs[0].Pool = "b"
		r.setAffinity(model.AffinityPool)
		r.apply()
	},
	"affinity, then backends": func(r *fluxRig) {
		r.setAffinity(model.AffinitySource)
		r.apply()
		r.add(0, 5)
		r.set(0, 1, model.Draining)
		r.apply()
	},
	"table size": func(r *fluxRig) { r.desired.Pools[0].TableSize = 257; r.apply() },
	"grows out of its place": func(r *fluxRig) {
		for n := 4; n < 30; n++ {
			r.add(0, n)
		}
		r.apply()
	},
}

func churned(t *testing.T, tracking model.Tracking, churn func(*fluxRig)) (*fluxRig, int) {
	r := newFluxRig(t, tracking, model.TCP)
	for n := 1; n < 4; n++ {
		r.add(0, n)
	}
	r.apply()
	old := r.open(0, flows)
	broken := r.broken(old)
	churn(r)
	broken += r.broken(old)
	young := r.open(flows, flows)
	broken += r.broken(young)
	churn(r)
	return r, broken + r.broken(old) + r.broken(young)
}

func TestFlowsSurvive(t *testing.T) {
	t.Parallel()
	for name, churn := range churns {
		t.Run(name, func(t *testing.T) {
			if _, broken := churned(t, model.TrackingFlux, churn); broken > 0 {
				t.Errorf("%d flows broken", broken)
			}
		})
		t.Run(name+", tracking always", func(t *testing.T) {
			if _, broken := churned(t, model.TrackingAlways, churn); broken > 0 {
				t.Errorf("%d flows broken", broken)
			}
		})
	}
}

// The control: without tracking the same changes break flows.
func TestFlowsBreakWithoutTracking(t *testing.T) {
	t.Parallel()
	for name, churn := range churns {
		if name == "drain and back" || name == "there and back" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if _, broken := churned(t, model.TrackingNone, churn); broken == 0 {
				t.Error("no flow broken: the test shows nothing")
			}
		})
	}
}

func TestEverythingSettles(t *testing.T) {
	t.Parallel()
	for name, churn := range churns {
		t.Run(name, func(t *testing.T) {
			r, _ := churned(t, model.TrackingFlux, churn)
			r.pass(time.Second)
			if r.plane.stats.Live == 0 {
				t.Fatal("no flow is remembered")
			}
			r.pass(5 * time.Second)
			if !r.plane.NeedsSweep() {
				t.Fatal("settled before the idle time")
			}
			for range 4 {
				r.pass(11 * time.Second)
			}
			if r.plane.NeedsSweep() || r.plane.SlotsInFlux() > 0 || r.plane.stats.Live > 0 {
				t.Errorf("not settled: %d slots in flux, %d flows, %d ghosts, %d leaving",
					r.plane.SlotsInFlux(), r.plane.stats.Live, len(r.plane.ghosts), r.plane.leaving())
			}
			before := r.events()
			r.broken(r.open(0, flows))
			if r.events() != before {
				t.Error("settled slots touch the flow table")
			}
		})
	}
}

func TestLiveFlowHoldsItsSlot(t *testing.T) {
	r := newFluxRig(t, model.TrackingFlux, model.TCP)
	for n := 1; n < 4; n++ {
		r.add(0, n)
	}
	r.apply()
	old := r.open(0, flows)
	r.set(0, 1, model.Draining)
	r.apply()
	for range 10 {
		r.pass(5 * time.Second)
		if n := r.broken(old); n > 0 {
			t.Fatalf("%d flows broken", n)
		}
	}
	if r.plane.SlotsInFlux() == 0 {
		t.Error("slots settled under live flows")
	}
}

func TestUDPIsTracked(t *testing.T) {
	for tracking, want := range map[model.Tracking]bool{model.TrackingAlways: true, model.TrackingFlux: false} {
		r := newFluxRig(t, tracking, model.UDP)
		r.add(0, 1)
		r.apply()
		old := r.open(0, flows)
		for n := 2; n < 5; n++ {
			r.add(0, n)
		}
		r.apply()
		if broken := r.broken(old); (broken == 0) != want {
			t.Errorf("tracking %v: %d flows broken", tracking, broken)
		}
	}
}

// TestFullBucketsHaveRoomNextDoor: eight connections of one bucket are remembered, the
// ninth is not.
func TestFullBucketsHaveRoomNextDoor(t *testing.T) {
	r := newFluxRig(t, model.TrackingAlways, model.TCP)
	r.add(0, 1)
	r.apply()
	crowded := func(flow uint32) bool { return r.hash(flow)>>2&uint64(len(r.plane.flows.elements)-1) == 7 }
	flow := uint32(0)
	for n := range 2*flowsPerBucket + 1 {
		for flow++; !crowded(flow); flow++ {
		}
		room := n < 2*flowsPerBucket
		r.send(flow, syn)
		if room {
			r.send(flow, ack)
		}
		if e := r.events(); (e.Unremembered == 0) != room || e.EvictedConnections > 0 {
			t.Errorf("after %d connections: %+v", n+1, e)
		}
	}
}

func TestSYNFloodSparesConnections(t *testing.T) {
	r := newFluxRig(t, model.TrackingFlux, model.TCP)
	for n := 1; n < 4; n++ {
		r.add(0, n)
	}
	r.apply()
	old := r.open(0, flows)
	r.set(0, 1, model.Draining)
	r.apply()
	young := r.open(flows, flows)
	broken := r.broken(old) + r.broken(young)
	r.open(1<<20, 200_000)
	broken += r.broken(old) + r.broken(young)
	e := r.events()
	if broken > 0 || e.EvictedConnections > 0 {
		t.Errorf("%d broken, %+v", broken, e)
	}
	if e.EvictedEmbryonic == 0 {
		t.Errorf("the flood filled no bucket: %+v", e)
	}
}

package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func by(scope model.AffinityScope, ipv4, ipv6 uint8) model.Affinity {
	return model.Affinity{Scope: scope, IPv4Prefix: ipv4, IPv6Prefix: ipv6}
}

// affine is a state in which the MAC address that a packet leaves for tells its slot,
// and VIPs have an affinity; nothing remembers what they had before.
func affineState(slots int, a model.Affinity) forwarding.State {
	state := oneBackendPerSlot(slots)
	for i := range state.VIPs {
		state.VIPs[i].Affinity, state.VIPs[i].Tracking = a, model.TrackingNone
	}
	return state
}

// TestAffinityTwins sends random flows through the program and compares the slot with
// the one that the hash in Go gives.
func TestAffinityTwins(t *testing.T) {
	const slots, flows = 251, 3000
	p := loaded(t, Limits{VIPs: 16, Pools: 4, Backends: 1 << 10, Slots: 1 << 12})
	random := rand.New(rand.NewPCG(3, 5))
	for _, scope := range []model.AffinityScope{model.AffinityFlow, model.AffinitySource, model.AffinityPool} {
		for _, prefix := range [][2]uint8{{32, 128}, {24, 64}, {16, 48}, {31, 127}, {17, 65}, {1, 1}, {9, 7}} {
			a := by(scope, prefix[0], prefix[1])
			applyTo(t, p, affineState(slots, a))
			wrong, others := 0, 0
			for range flows {
				flow := randomFlow(random)
				f := families()[0]
				if flow.Source.Addr().Is6() {
					f = families()[1]
				}
				_, out, err := send(p, flowPacket(flow).bytes())
				if err != nil {
					t.Fatal(err)
				}
				slot, vip := binary.BigEndian.Uint32(out[2:6]), f.name+flow.Protocol.String()
				if slot != Slot(testSeed().AffineHash(flow, vip, a), slots) {
					wrong++
				}
				if slot != Slot(testSeed().AffineHash(flow, "another", a), slots) {
					others++
				}
			}
			if wrong > 0 {
				t.Errorf("affinity %+v: %d of %d flows are sent elsewhere than Go says", a, wrong, flows)
			}
			// The control: with a VIP of another name that must not matter, or must.
			if (others > flows/2) != (scope == model.AffinitySource) {
				t.Errorf("affinity %+v: %d of %d flows are sent elsewhere than those of another VIP", a, others, flows)
			}
		}
	}
}

// severalVIPs are two VIPs of several endpoints that share a pool.
func severalVIPs(a model.Affinity) forwarding.State {
	state := oneBackendPerSlot(251)
	state.VIPs = nil
	for i, name := range []string{"one", "two"} {
		v := model.VIP{Name: name, Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Affinity: a, Tracking: model.TrackingNone}
		for _, f := range families() {
			v.Endpoints = append(v.Endpoints,
				model.Endpoint{Address: f.vip, Ports: model.Port(uint16(80 + i))},
				model.Endpoint{Address: f.vip, Ports: model.PortRange{First: uint16(8000 + 100*i), Last: uint16(8099 + 100*i)}},
				model.Endpoint{Address: f.wide, Ports: model.Port(uint16(443 + i))})
		}
		state.VIPs = append(state.VIPs, v)
	}
	return state
}

// spreadOver is how many slots flows of a client reach, of those that differ in
// the client's port, in the endpoint, and in the VIP.
func spreadOver(t *testing.T, p *Plane, f family, clients ...netip.Addr) (flows, endpoints, vips int) {
	t.Helper()
	to := func(addresses []netip.Addr, from, ports []uint16) int {
		slots := map[uint32]bool{}
		for _, client := range clients {
			for _, address := range addresses {
				for _, source := range from {
					for _, port := range ports {
						if (port < 1000 && port > 100) != (address == f.wide) {
							continue
						}
						in := f.packet(tcp{from: source, to: port, flags: flagSYN})
						in.source, in.destination = client, address
						verdict, out, err := send(p, in.bytes())
						if err != nil || verdict != xdpTX {
							t.Fatalf("port %d: verdict %d, %v", port, verdict, err)
						}
						slots[binary.BigEndian.Uint32(out[2:6])] = true
					}
				}
			}
		}
		return len(slots)
	}
	some, one, both := []uint16{1, 2, 3, 4, 5, 6}, []uint16{1}, []netip.Addr{f.vip, f.wide}
	return to(both[:1], some, []uint16{80}), to(both, one, []uint16{80, 8000, 8001, 8050, 8099, 443}),
		to(both, one, []uint16{80, 81, 8000, 8150, 443, 444})
}

// TestAffinityKeepsTogether: what a scope keeps together goes to one backend, and
// what it does not does not.
func TestAffinityKeepsTogether(t *testing.T) {
	p := loaded(t, Limits{VIPs: 16, Endpoints: 32, Pools: 4, Backends: 1 << 10, Slots: 1 << 12})
	for _, c := range []struct {
		a                      model.Affinity
		flows, endpoints, vips bool
	}{
		{by(model.AffinityFlow, 32, 128), false, false, false},
		{by(model.AffinitySource, 32, 128), true, true, false},
		{by(model.AffinityPool, 32, 128), true, true, true},
		{by(model.AffinitySource, 24, 64), true, true, false},
		{by(model.AffinityPool, 24, 64), true, true, true},
	} {
		applyTo(t, p, severalVIPs(c.a))
		for _, f := range families() {
			near, far := f.client.Next(), netip.MustParseAddr("203.0.112.7")
			if f.ipv6 {
				near, far = netip.MustParseAddr("2001:db8:c:0:ffff::1"), netip.MustParseAddr("2001:db8:c:1::7")
			}
			flows, endpoints, vips := spreadOver(t, p, f, f.client)
			if (flows == 1) != c.flows || (endpoints == 1) != c.endpoints || (vips == 1) != c.vips {
				t.Errorf("%s, %+v: flows reach %d, endpoints %d, VIPs %d backends", f.name, c.a, flows, endpoints, vips)
			}
			wide := c.flows && c.a.IPv4Prefix < 32
			if flows, _, _ = spreadOver(t, p, f, f.client, near); (flows == 1) != wide {
				t.Errorf("%s, %+v: neighbours reach %d backends", f.name, c.a, flows)
			}
			if flows, _, _ = spreadOver(t, p, f, f.client, far); flows == 1 {
				t.Errorf("%s, %+v: strangers reach one backend", f.name, c.a)
			}
		}
	}
}

// TestAffineFlows: whole packets, fragments and ICMP errors of flows of VIPs with
// affinity, in every mode; what is outside tells flows apart all the same.
func TestAffineFlows(t *testing.T) {
	for _, a := range []model.Affinity{by(model.AffinitySource, 24, 64), by(model.AffinityPool, 32, 128)} {
		options := variants()["checksum, port, sources of /16 and /112"]
		options.SourceIPv4, options.SourceIPv6 = netip.Prefix{}, netip.Prefix{}
		c := newCrowd(t, Limits{Fragments: 1 << 12}, options, func(v *model.VIP) { v.Affinity = a })
		for _, people := range c.services {
			for i := range people {
				people[i].options = options
			}
		}
		id, n := uint32(1), 0
		c.everyFlow(ways(), 80, func(f family, w way, p packet) service {
			if !f.ipv6 {
				b := p.source.As4()
				b[1] = byte(n) // clients of many networks
				p.source = netip.AddrFrom4(b)
			} else {
				b := p.source.As16()
				b[7] = byte(n)
				p.source = netip.AddrFrom16(b)
			}
			n++
			id += 0x10001
			flow := blind(p)
			name := c.of(f, w)[0].vip(flow.Protocol)
			s := c.owner(f, w, testSeed().AffineHash(flow, name, a))
			parts := split(p, id, nil, 40, 80)
			about := answeredBy(p)
			c.must("whole", c.reaches(p, s, hashOf(p)))
			c.must("first", c.reaches(parts[0], s, hashOf(p)))
			c.must("last", c.reaches(parts[2], s, 0))
			c.must("error", c.reaches(f.reports(f.anyError(), about, len(about.ip())-600), s, hashOf(p)))
			return s
		})
	}
}

// wanted is where the affinity of the rig's VIP leads a new flow, as send tells it.
func (r *fluxRig) wanted(flow uint32) int {
	hash := r.plane.seed.AffineHash(blind(r.flowOf(flow)), "web", r.desired.VIPs[0].Affinity)
	at := r.plane.applied.places["a"]
	for id, owner := range at.owners {
		if b := id.Address.As4(); owner == at.table.Words()[Slot(hash, at.slots)].Owner() {
			return int(b[2])<<8 | int(b[3])
		}
	}
	return -1
}

// refusesAffinity wants another change of affinity to be refused while one is under way.
func (r *fluxRig) refusesAffinity(other model.AffinityScope) {
	r.Helper()
	before := r.desired.VIPs[0].Affinity
	r.setAffinity(other)
	state := r.state
	state.VIPs = slices.Clone(r.desired.VIPs)
	if err := r.plane.Apply(state); err == nil || !strings.Contains(err.Error(), "its affinity has changed a short while ago") {
		r.Errorf("a second change in flux: %v", err)
	}
	r.desired.VIPs[0].Affinity = before
}

// TestAffinityThatChanges: connections stay, also when their SYNs come again, and new
// ones go by the new affinity, at once and for good.
func TestAffinityThatChanges(t *testing.T) {
	r := newFluxRig(t, model.TrackingFlux, model.TCP)
	for n := 1; n < 6; n++ {
		r.add(0, n)
	}
	r.apply()
	seen, silent := r.open(0, 500), r.open(1000, 500)
	r.setAffinity(model.AffinitySource)
	r.apply()
	broken, again := r.broken(seen), 0
	for f, backend := range seen {
		if r.send(f, syn) != backend {
			again++
		}
	}
	young := map[uint32]int{}
	for f := uint32(1 << 16); f < 1<<16+500; f++ {
		if young[f] = r.send(f, syn); young[f] != r.wanted(f) {
			t.Fatalf("new flow %d goes to %d, want %d", f, young[f], r.wanted(f))
		}
	}
	// One that began under the first affinity could not be found under a third.
	r.refusesAffinity(model.AffinityPool)
	broken += r.broken(seen) + r.broken(silent) + r.broken(young)
	if broken+again > 0 {
		t.Errorf("%d connections have moved, %d when their SYN came again", broken, again)
	}
	for range 5 {
		r.pass(11 * time.Second)
	}
	before := r.events()
	for f := range seen {
		if got := r.send(f, ack); got != r.wanted(f) {
			t.Fatalf("settled flow %d goes to %d, want %d", f, got, r.wanted(f))
		}
	}
	if r.plane.NeedsSweep() || r.events() != before {
		t.Error("it does not settle, or settled flows touch the flow table")
	}
	r.setAffinity(model.AffinityPool)
	r.apply()
}

// TestAffinityAndRestart: a daemon that starts anew in the midst of a change knows
// both affinities.
func TestAffinityAndRestart(t *testing.T) {
	for _, withApply := range []bool{true, false} {
		t.Run(fmt.Sprint("applied before: ", withApply), func(t *testing.T) {
			r, path := pinnedRig(t)
			old, silent := r.open(0, 300), r.open(1000, 300)
			r.setAffinity(model.AffinitySource)
			if withApply {
				r.apply()
			}
			young := map[uint32]int{}
			if withApply {
				young = r.open(1<<16, 300)
			}
			broken := r.broken(old)
			r.reopen(path)
			broken += r.broken(old) + r.broken(young)
			r.apply()
			if broken += r.broken(old) + r.broken(silent) + r.broken(young); broken > 0 {
				t.Errorf("%d connections have moved", broken)
			}
			r.refusesAffinity(model.AffinityPool)
		})
	}
}

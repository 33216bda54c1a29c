package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// way is a forwarding mode with the family of what is outside, and a port for it.
type way struct {
	name  string
	mode  model.Mode
	outer family
	port  uint16
}

func ways() []way {
	return []way{
		{"l2", model.ModeDSRL2, ipv4(), portL2},
		{"ipip in ipv4", model.ModeDSRIPIP, ipv4(), portTunnel4},
		{"ipip in ipv6", model.ModeDSRIPIP, ipv6(), portTunnel6},
		{"gue in ipv4", model.ModeDSRGUE, ipv4(), portGUE4},
		{"gue in ipv6", model.ModeDSRGUE, ipv6(), portGUE6},
	}
}

const crowdBackends, crowdSlots = 97, 251

// crowd is a Plane with a VIP for every family, way and protocol, and a pool of many
// backends for every family and way.
type crowd struct {
	*testing.T
	*Plane
	// services are one for each backend of a pool, by its name.
	services map[string][]service
}

func newCrowd(t *testing.T, limits Limits, options Options, change func(*model.VIP)) *crowd {
	t.Helper()
	c := &crowd{T: t, services: map[string][]service{}}
	for _, f := range families() {
		for _, w := range ways() {
			c.people(f, w)
		}
	}
	limits.VIPs, limits.Pools, limits.Backends, limits.Slots = 64, 16, 1<<12, 1<<13
	c.Plane = loadedWith(t, limits, options)
	applyTo(t, c.Plane, c.state(change))
	return c
}

func (c *crowd) people(f family, w way) {
	for i := range crowdBackends {
		s := service{family: f, port: w.port, mode: w.mode, resolved: true, backend: w.outer.host(w.port+hostFamily(f), 1+i)}
		s.path = forwarding.Path{
			Link: loopback, OnLink: true, MTU: mtu, Outer: w.outer.balancer, Source: balancerMAC(),
			Destination: mac{0x02, 1, byte(hostNumber(f)), byte(w.port), 0, byte(i)},
		}
		c.services[s.pool()] = append(c.services[s.pool()], s)
	}
}

// hostFamily keeps the backends of families apart.
func hostFamily(f family) uint16 {
	if f.ipv6 {
		return 20
	}
	return 0
}

// state has every VIP changed in some way.
func (c *crowd) state(change func(*model.VIP)) forwarding.State {
	var first []service
	for _, f := range families() {
		for _, w := range ways() {
			first = append(first, c.of(f, w)[0])
		}
	}
	state := stateOf(first)
	for i := range state.Pools {
		people := c.services[state.Pools[i].Name]
		addresses := make([]netip.Addr, len(people))
		for j, s := range people {
			addresses[j] = s.backend
			state.Paths[s.backend] = s.path
		}
		state.Pools[i] = settledPool(state.Pools[i].Name, crowdSlots, addresses...)
	}
	for i := range state.VIPs {
		if change != nil {
			change(&state.VIPs[i])
		}
	}
	return state
}

func (c *crowd) of(f family, w way) []service {
	return c.services[service{family: f, port: w.port}.pool()]
}

// owner is the backend that a hash chooses.
func (c *crowd) owner(f family, w way, hash uint64) service {
	return c.of(f, w)[Slot(hash, crowdSlots)%crowdBackends]
}

// reaches sends a packet and wants one backend to receive it; hash shows outside.
func (c *crowd) reaches(in packet, s service, hash uint64) error {
	verdict, out, err := send(c.Plane, in.bytes())
	if err != nil {
		return err
	}
	want := s.forwardedBy(in, hash).bytes()
	return errors.Join(checkVerdict(verdict, "tx_forwarded"), checkBytes(out, want), wellFormed(want))
}

// must stops the test at the first error.
func (c *crowd) must(what string, err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

// anyClient is a flow of a random client to a VIP.
func (f family) anyClient(random *rand.Rand, w way, protocol model.Protocol) packet {
	// Of ports that say something, gopacket thinks that it is meant.
	from := uint16(20000 + random.IntN(20000))
	p := f.packet(udp{from: from, to: w.port, data: text(100 + random.IntN(100))})
	if protocol == model.TCP {
		p.payload = tcp{from: from, to: w.port, flags: flagACK, data: text(100 + random.IntN(100))}
	}
	b := p.source.AsSlice()
	b[len(b)-1], b[len(b)-2] = byte(random.Uint32()), byte(random.Uint32())
	p.source, _ = netip.AddrFromSlice(b)
	return p
}

// answeredBy is what a backend sends to the client of a packet's flow.
func answeredBy(p packet) packet {
	out := packet{source: p.destination, destination: p.source, ttl: 1}
	switch carried := p.payload.(type) {
	case tcp:
		out.payload = tcp{from: carried.to, to: carried.from, flags: flagACK, data: text(600)}
	case udp:
		out.payload = udp{from: carried.to, to: carried.from, data: text(600)}
	}
	return out
}

// everyFlow does something with many random flows of every family and protocol, some
// ways, and wants them to reach many backends.
func (c *crowd) everyFlow(some []way, flows int, do func(f family, w way, p packet) service) {
	c.Helper()
	random := rand.New(rand.NewPCG(uint64(flows), 17))
	for _, f := range families() {
		for _, w := range some {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				reached := map[netip.Addr]bool{}
				for range flows {
					reached[do(f, w, f.anyClient(random, w, protocol)).backend] = true
				}
				if len(reached) < min(flows, crowdBackends)/2 {
					c.Errorf("%s, %s, %s: only %d backends reached", f.name, w.name, protocol, len(reached))
				}
			}
		}
	}
}

// TestErrorsReachTheBackendOfTheirFlow: wherever a flow's packets go, errors about
// what comes back go as well.
func TestErrorsReachTheBackendOfTheirFlow(t *testing.T) {
	c := newCrowd(t, Limits{}, testOptions(), nil)
	n := 0
	c.everyFlow(ways(), 120, func(f family, w way, p packet) service {
		s := c.owner(f, w, hashOf(p))
		about := answeredBy(p)
		trouble := f.troubles()[n%len(f.troubles())]
		n++
		c.must(fmt.Sprint("flow of ", p.source), c.reaches(p, s, hashOf(p)))
		for _, quote := range []int{len(about.ip()) - 600, everything, 548} {
			c.must(fmt.Sprint("error about ", p.source), c.reaches(f.reports(trouble, about, quote), s, hashOf(p)))
		}
		return s
	})
}

// TestFragmentsFollowTheFirst: many packets' fragments come all at once.
func TestFragmentsFollowTheFirst(t *testing.T) {
	c := newCrowd(t, Limits{Fragments: 1 << 14}, testOptions(), nil)
	type rest struct {
		packet
		service
	}
	var later []rest
	id := uint32(0x77770000)
	c.everyFlow(ways(), 60, func(f family, w way, p packet) service {
		s, parts := c.owner(f, w, hashOf(p)), split(p, id, nil, 40, 80)
		id += 0x10003
		c.must("first", c.reaches(parts[0], s, hashOf(p)))
		later = append(later, rest{parts[2], s}, rest{parts[1], s})
		return s
	})
	for _, r := range later {
		c.must("later", c.reaches(r.packet, r.service, 0))
	}
}

// hashes makes every VIP take fragments early.
func hashes(v *model.VIP) { v.Fragments = model.FragmentsHash }

// blind is the flow of which fragments are that tell no ports.
func blind(p packet) Flow {
	return Flow{netip.AddrPortFrom(p.source, 0), netip.AddrPortFrom(p.destination, 0), model.Protocol(p.payload.protocol(p.ipv6()))}
}

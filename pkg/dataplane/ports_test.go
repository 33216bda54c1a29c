package dataplane

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// claimant is a VIP by its endpoints alone.
type claimant struct {
	protocol  model.Protocol
	endpoints []model.Endpoint
}

func endpoints(address netip.Addr, ports ...string) []model.Endpoint {
	var out []model.Endpoint
	for _, p := range ports {
		r, err := model.ParsePortRange(p)
		if err != nil {
			panic(err)
		}
		out = append(out, model.Endpoint{Address: address, Ports: r})
	}
	slices.SortFunc(out, model.Endpoint.Compare)
	return out
}

// listening is a state in which the MAC address that a packet leaves for tells the
// VIP that took it, by its place among claimants.
func listening(all []claimant) forwarding.State {
	state := forwarding.State{Paths: map[netip.Addr]forwarding.Path{}}
	for i, l := range all {
		name := fmt.Sprintf("vip%04d", i)
		backend := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		state.Paths[backend] = forwarding.Path{
			Link: loopback, OnLink: true, MTU: mtu, Source: balancerMAC(), Destination: mac{2, 0, 0, 0, byte(i >> 8), byte(i)},
		}
		state.Pools = append(state.Pools, settledPool(name, 251, backend))
		state.VIPs = append(state.VIPs, model.VIP{Name: name, Endpoints: l.endpoints, Protocol: l.protocol, Mode: model.ModeDSRL2, Pool: name})
	}
	return state
}

// takes is the place of the claimant that takes a port, -1 for none: one with that
// port alone comes first, then one with a range, then one with any.
func takes(all []claimant, address netip.Addr, protocol model.Protocol, port uint16) int {
	best, found := 3, -1
	for i, l := range all {
		for _, e := range l.endpoints {
			rank := 1
			switch {
			case l.protocol != protocol || e.Address != address:
				continue
			case e.Ports == model.PortRange{}:
				rank = 2
			case port == 0 || port < e.Ports.First || port > e.Ports.Last:
				continue
			case e.Ports.First == e.Ports.Last:
				rank = 0
			}
			if rank < best {
				best, found = rank, i
			}
		}
	}
	return found
}

// taker is the claimant that a packet leaves for, -1 if it passes.
func taker(t *testing.T, p *Plane, address netip.Addr, protocol model.Protocol, port uint16) int {
	t.Helper()
	verdict, out, err := send(p, toEndpoint(address, protocol, port))
	switch {
	case err != nil:
		t.Fatal(err)
	case verdict == xdpTX:
		return int(out[4])<<8 | int(out[5])
	case verdict != xdpPass:
		t.Fatalf("port %d: verdict %d", port, verdict)
	}
	return -1
}

func wantTakers(t *testing.T, p *Plane, all []claimant, address netip.Addr, protocol model.Protocol, ports []uint16) {
	t.Helper()
	wrong := 0
	for _, port := range ports {
		got, want := taker(t, p, address, protocol, port), takes(all, address, protocol, port)
		if got != want {
			if wrong++; wrong < 4 {
				t.Errorf("%s %s port %d: taken by %d, want %d", address, protocol, port, got, want)
			}
		}
	}
}

// someOf are ports at equal distances, and those at the edges of layouts.
func someOf(distance int, edges ...uint16) []uint16 {
	for port := 0; port <= math.MaxUint16; port += distance {
		edges = append(edges, uint16(port))
	}
	return edges
}

// layouts are what VIPs on an address, and on others, may take.
func layouts(f family) map[string][]claimant {
	exact := claimant{model.TCP, endpoints(f.vip, "80", "443", "1500", "65535")}
	low := claimant{model.TCP, endpoints(f.vip, "1-10", "1000-1999")}
	high := claimant{model.TCP, endpoints(f.vip, "2000-2001", "60000-65535")}
	rest := claimant{model.TCP, slices.Concat(endpoints(f.vip, "any"), endpoints(f.wide, "any"))}
	elsewhere := claimant{model.TCP, endpoints(f.eager, "2-65534")}
	datagrams := claimant{model.UDP, endpoints(f.vip, "1-65535", "7")}
	return map[string][]claimant{
		"exact":               {exact},
		"ranges":              {low, high},
		"exact and ranges":    {exact, low, high},
		"any":                 {rest},
		"exact and any":       {rest, exact},
		"ranges and any":      {low, rest, high},
		"all":                 {high, rest, exact, low, elsewhere, datagrams},
		"every port but 0":    {{model.TCP, endpoints(f.vip, "1-65535")}},
		"every port, in half": {{model.TCP, endpoints(f.vip, "1-32767")}, {model.TCP, endpoints(f.vip, "32768-65535")}},
		"of one VIP":          {{model.TCP, endpoints(f.vip, "any", "80", "100-200")}},
	}
}

// TestPorts sends every port, or many, to VIPs that share addresses.
func TestPorts(t *testing.T) {
	p := loaded(t, Limits{VIPs: 32, Endpoints: 64, Pools: 32, Backends: 256, Slots: 1 << 13})
	for _, f := range families() {
		for name, all := range layouts(f) {
			applyTo(t, p, listening(all))
			t.Run(f.name+" "+name, func(t *testing.T) {
				edges := []uint16{0, 1, 2, 6, 7, 8, 10, 11, 79, 80, 81, 99, 100, 200, 201, 442, 443, 444, 999, 1000,
					1499, 1500, 1501, 1999, 2000, 2001, 2002, 32767, 32768, 59999, 60000, 65534, 65535}
				distance := 97
				if name == "all" {
					distance = 1
				}
				wantTakers(t, p, all, f.vip, model.TCP, someOf(distance, edges...))
				for _, address := range []netip.Addr{f.wide, f.eager, f.foreign} {
					wantTakers(t, p, all, address, model.TCP, edges)
				}
				for _, address := range []netip.Addr{f.vip, f.wide, f.foreign} {
					wantTakers(t, p, all, address, model.UDP, edges)
				}
			})
		}
	}
}

// TestManyRanges has hundreds of ranges on one address, with and without gaps, and
// looks at both sides of each edge.
func TestManyRanges(t *testing.T) {
	const vips = 10
	p := loaded(t, Limits{VIPs: 32, Endpoints: 1200, Pools: 32, Backends: 256, Slots: 1 << 13})
	random := rand.New(rand.NewPCG(8, 9))
	for round := range 4 {
		f, protocol := families()[round%2], []model.Protocol{model.TCP, model.UDP}[round/2]
		all := make([]claimant, vips)
		var edges []uint16
		for i := range all {
			all[i].protocol = protocol
		}
		for next := 1; next < math.MaxUint16 && len(edges) < 4*1000; {
			last := min(next+random.IntN(100), math.MaxUint16)
			l := &all[random.IntN(vips)]
			l.endpoints = append(l.endpoints, model.Endpoint{Address: f.vip, Ports: model.PortRange{First: uint16(next), Last: uint16(last)}})
			edges = append(edges, uint16(next-1), uint16(next), uint16(last), uint16(last)+1)
			next = last + 1 + random.IntN(3)*random.IntN(40)
		}
		if round >= 2 {
			all = append(all, claimant{protocol, endpoints(f.vip, "any")})
		}
		applyTo(t, p, listening(slices.DeleteFunc(all, func(l claimant) bool { return len(l.endpoints) == 0 })))
		wantTakers(t, p, all, f.vip, protocol, edges)
		wantTakers(t, p, all, f.wide, protocol, edges[:8])
	}
}

// TestPartsOfRanges: ICMP errors and fragments of VIPs that take ranges.
func TestPartsOfRanges(t *testing.T) {
	p := loaded(t, Limits{VIPs: 32, Endpoints: 64, Pools: 32, Backends: 256, Slots: 1 << 13, Fragments: 64})
	for _, f := range families() {
		all := layouts(f)["all"]
		applyTo(t, p, listening(all))
		for id, port := range []uint16{5, 80, 999, 1000, 1500, 2001, 3000, 65535} {
			in := f.packet(tcp{from: 30000, to: port, flags: flagACK, data: text(100)})
			want := takes(all, f.vip, model.TCP, port)
			parts := split(in, uint32(id), nil, 48)
			for what, frame := range map[string][]byte{
				"error": f.reports(f.anyError(), answeredBy(in), 400).bytes(), "first fragment": parts[0].bytes(),
			} {
				verdict, out, err := send(p, frame)
				if err != nil || verdict != xdpTX || int(out[5]) != want {
					t.Errorf("%s: %s of port %d: verdict %d, to %d, want %d; %v", f.name, what, port, verdict, out[5], want, err)
				}
			}
			if verdict, out, err := send(p, parts[1].bytes()); err != nil || verdict != xdpTX || int(out[5]) != want {
				t.Errorf("%s: fragment of port %d: verdict %d, to %d, want %d; %v", f.name, port, verdict, out[5], want, err)
			}
		}
	}
}

// TestEndpointsWithoutRoom: what does not fit is refused as a whole.
func TestEndpointsWithoutRoom(t *testing.T) {
	const room = 8
	p := loaded(t, Limits{VIPs: 4, Endpoints: room, Pools: 4, Backends: 64, Slots: 1 << 10})
	f := ipv4()
	var ports []string
	for i := range room {
		ports = append(ports, fmt.Sprintf("%d-%d", 100*i+1, 100*i+50))
	}
	full := []claimant{{model.TCP, endpoints(f.vip, ports...)}}
	applyTo(t, p, listening(full))
	wantTakers(t, p, full, f.vip, model.TCP, someOf(7))
	over := []claimant{{model.TCP, endpoints(f.vip, append(ports, "5000")...)}, {model.UDP, endpoints(f.wide, "1")}}
	for name, try := range map[string]func(forwarding.State) error{"check": p.Check, "apply": p.Apply} {
		err := try(listening(over))
		if err == nil || !strings.Contains(err.Error(), "10 endpoints") || !strings.Contains(err.Error(), "limits.endpoints") {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantTakers(t, p, full, f.vip, model.TCP, someOf(7))
	// As many as there may be, in every form that takes most room.
	gaps := []claimant{{model.UDP, endpoints(f.vip, append(ports[:room-1], "any")...)}}
	state := listening(gaps)
	state.VIPs[0].Fragments = model.FragmentsHash
	applyTo(t, p, state)
	wantTakers(t, p, gaps, f.vip, model.UDP, someOf(7))
}

// TestEveryVIPIsFoundEarly: as many addresses as endpoints, each with a key for
// fragments as well.
func TestEveryVIPIsFoundEarly(t *testing.T) {
	for _, n := range []int{1, 3, 500, 5000} {
		vips := manyVIPs(n, rand.New(rand.NewPCG(7, 8)))
		for i := range vips {
			vips[i].Fragments = model.FragmentsHash
		}
		p := loaded(t, Limits{VIPs: uint32(n), Pools: 1, Backends: 8, Slots: 256, Fragments: 64})
		applyTo(t, p, stateOfVIPs(vips))
		for _, v := range vips {
			expectVerdict(t, p, toVIP(v), xdpTX)
		}
	}
}

package dataplane

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// manySlots is a table with a slot, and so a backend, of its own for nearly
// every owner that a slot word can name.
const manySlots = 32749

// oneBackendPerSlot is a state in which the MAC address that a packet leaves for
// tells its slot, whatever its port, protocol and family.
func oneBackendPerSlot(slots int) forwarding.State {
	addresses := make([]netip.Addr, slots)
	state := forwarding.State{Paths: make(map[netip.Addr]forwarding.Path, slots)}
	for i := range addresses {
		addresses[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		path := forwarding.Path{Link: loopback, OnLink: true, MTU: mtu, Source: balancerMAC()}
		binary.BigEndian.PutUint32(path.Destination[2:], uint32(i))
		state.Paths[addresses[i]] = path
	}
	state.Pools = []forwarding.Pool{settledPool("pool", uint32(slots), addresses...)}
	for _, f := range families() {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			state.VIPs = append(state.VIPs, model.VIP{
				Name: f.name + protocol.String(), Endpoints: listen(f.vip, 0), Protocol: protocol, Mode: model.ModeDSRL2, Pool: "pool",
			})
		}
	}
	return state
}

// flowPacket is a packet of a flow.
func flowPacket(f Flow) packet {
	p := packet{source: f.Source.Addr(), destination: f.Destination.Addr(), ttl: 9}
	if f.Protocol == model.TCP {
		p.payload = tcp{from: f.Source.Port(), to: f.Destination.Port(), flags: flagACK}
	} else {
		p.payload = udp{from: f.Source.Port(), to: f.Destination.Port()}
	}
	return p
}

func randomFlow(random *rand.Rand) Flow {
	f := families()[random.IntN(2)]
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], random.Uint64())
	binary.LittleEndian.PutUint64(b[8:], random.Uint64())
	source := netip.AddrFrom16(b)
	if !f.ipv6 {
		source = netip.AddrFrom4([4]byte(b[:4]))
	}
	return Flow{
		Source:      netip.AddrPortFrom(source, uint16(random.Uint32())),
		Destination: netip.AddrPortFrom(f.vip, uint16(random.Uint32())),
		Protocol:    []model.Protocol{model.TCP, model.UDP}[random.IntN(2)],
	}
}

// disagreements counts the flows whose slot in the program is not the one that
// a seed's hash says.
func disagreements(t *testing.T, p *Plane, seed Seed, slots uint32, flows int) int {
	t.Helper()
	random := rand.New(rand.NewPCG(1, uint64(slots)))
	wrong := 0
	for range flows {
		flow := randomFlow(random)
		verdict, out, err := send(p, flowPacket(flow).bytes())
		if err != nil || verdict != xdpTX {
			t.Fatalf("%+v: verdict %d, %v", flow, verdict, err)
		}
		if binary.BigEndian.Uint32(out[2:6]) != Slot(seed.Hash(flow), slots) {
			wrong++
		}
	}
	return wrong
}

// TestHashTwins sends random flows through the program and compares the slot
// with the one that the hash in Go gives.
func TestHashTwins(t *testing.T) {
	for _, slots := range []int{251, manySlots} {
		p := loaded(t, Limits{VIPs: 16, Pools: 4, Backends: 1 << 16, Slots: 1 << 17})
		applyTo(t, p, oneBackendPerSlot(slots))
		if wrong := disagreements(t, p, testSeed(), uint32(slots), 40000); wrong != 0 {
			t.Errorf("%d slots: %d flows are sent elsewhere than Go says", slots, wrong)
		}
	}
}

// TestHashTwinsControl is its negative control: under another seed they differ,
// in each of its words.
func TestHashTwinsControl(t *testing.T) {
	const slots = 251
	p := loaded(t, Limits{VIPs: 16, Pools: 4, Backends: 1 << 10, Slots: 1 << 12})
	applyTo(t, p, oneBackendPerSlot(slots))
	for word := range 2 {
		seed := testSeed()
		seed[word] ^= 1 << 40
		if wrong := disagreements(t, p, seed, slots, 1000); wrong < 900 {
			t.Errorf("with another word %d of the seed, only %d of 1000 flows differ", word, wrong)
		}
	}
}

func TestNewSeed(t *testing.T) {
	got := NewSeed([16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	if want := (Seed{0x0807060504030201, 0x100f0e0d0c0b0a09}); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestSlotIsInTable(t *testing.T) {
	for _, slots := range []uint32{1, 251, 65537, model.MaxTableSize} {
		if got := Slot(0, slots); got != 0 {
			t.Errorf("lowest hash: slot %d of %d", got, slots)
		}
		if got := Slot(math.MaxUint64, slots); got != slots-1 {
			t.Errorf("highest hash: slot %d of %d", got, slots)
		}
	}
}

// A flow is a bit string for the tests of the hash's quality.
type pattern struct {
	name string
	flow func(i int) Flow
}

// patterns are sets of flows as networks have them.
func patterns() []pattern {
	var all []pattern
	for _, f := range families() {
		base := f.client
		client := func(i int) netip.Addr {
			b := base.AsSlice()
			at := b[len(b)-4:]
			binary.BigEndian.PutUint32(at, binary.BigEndian.Uint32(at)+uint32(i))
			a, _ := netip.AddrFromSlice(b)
			return a
		}
		to := netip.AddrPortFrom(f.vip, 443)
		all = append(all,
			pattern{f.name + " one client, ports in sequence", func(i int) Flow {
				return Flow{netip.AddrPortFrom(base, uint16(i)), to, model.TCP}
			}},
			pattern{f.name + " addresses in sequence, one port", func(i int) Flow {
				return Flow{netip.AddrPortFrom(client(i), 40000), to, model.TCP}
			}},
			pattern{f.name + " addresses in steps of 256, one port", func(i int) Flow {
				return Flow{netip.AddrPortFrom(client(i<<8), 40000), to, model.UDP}
			}},
			pattern{f.name + " addresses and ports in sequence", func(i int) Flow {
				return Flow{netip.AddrPortFrom(client(i), uint16(1024+i)), to, model.TCP}
			}},
			pattern{f.name + " few clients, even ports", func(i int) Flow {
				return Flow{netip.AddrPortFrom(client(i%256), uint16(32768+2*(i/256))), to, model.TCP}
			}},
			pattern{f.name + " ports of the VIP in sequence", func(i int) Flow {
				return Flow{netip.AddrPortFrom(base, 40000), netip.AddrPortFrom(f.vip, uint16(i)), model.UDP}
			}},
		)
	}
	return all
}

const chiSlots, chiFlows = 251, 1 << 16

// chiSquare is how far the flows' slots are from evenly spread: about chiSlots if
// they are as good as random, with a standard deviation of about 22.
func chiSquare(hash func(Flow) uint64, flow func(int) Flow) float64 {
	counts := make([]int, chiSlots)
	for i := range chiFlows {
		counts[Slot(hash(flow(i)), chiSlots)]++
	}
	sum, expected := 0.0, float64(chiFlows)/chiSlots
	for _, n := range counts {
		sum += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	return sum
}

// even is five standard deviations above the mean.
const even = 362

func TestHashSpreads(t *testing.T) {
	for _, seed := range []Seed{{}, testSeed(), {math.MaxUint64, 1}} {
		for _, p := range patterns() {
			if chi := chiSquare(seed.Hash, p.flow); chi > even {
				t.Errorf("seed %x, %s: chi-square %.0f over %d slots, at most %d expected", seed, p.name, chi, chiSlots, even)
			}
		}
	}
}

// TestHashSpreadsControl shows that a hash that does not mix would be found out.
func TestHashSpreadsControl(t *testing.T) {
	poor := func(f Flow) uint64 {
		a := f.Source.Addr().As16()
		return uint64(binary.BigEndian.Uint32(a[12:])+uint32(f.Source.Port())+uint32(f.Destination.Port())) << 32
	}
	for _, p := range patterns() {
		if chi := chiSquare(poor, p.flow); chi <= even {
			t.Errorf("%s: chi-square %.0f, a poor hash is not found out", p.name, chi)
		}
	}
}

// flips are the ways to change one bit of a flow's source address and ports.
func flips(f Flow) []Flow {
	var out []Flow
	a := f.Source.Addr().AsSlice()
	for bit := range 8 * len(a) {
		b := f.Source.Addr().AsSlice()
		b[bit/8] ^= 1 << (bit % 8)
		changed, _ := netip.AddrFromSlice(b)
		g := f
		g.Source = netip.AddrPortFrom(changed, f.Source.Port())
		out = append(out, g)
	}
	for bit := range 16 {
		g := f
		g.Source = netip.AddrPortFrom(f.Source.Addr(), f.Source.Port()^1<<bit)
		out = append(out, g)
		g = f
		g.Destination = netip.AddrPortFrom(f.Destination.Addr(), f.Destination.Port()^1<<bit)
		out = append(out, g)
	}
	return out
}

// avalanche is the range of probabilities with which a bit of the half that
// chooses the slot changes when one bit of the flow does.
func avalanche(hash func(Flow) uint64) (least, most float64) {
	const samples = 4000
	random := rand.New(rand.NewPCG(3, 4))
	changed := map[bool]*[200][32]int{false: {}, true: {}}
	total := map[bool]int{}
	for range 2 * samples {
		f := randomFlow(random)
		h, six := hash(f), f.Source.Addr().Is6()
		total[six]++
		for i, g := range flips(f) {
			difference := (hash(g) ^ h) >> 32
			for difference != 0 {
				changed[six][i][bits.TrailingZeros64(difference)]++
				difference &= difference - 1
			}
		}
	}
	least, most = 1, 0
	for six, counts := range changed {
		inputs := 32 + 32
		if six {
			inputs = 128 + 32
		}
		for i := range inputs {
			for _, n := range counts[i] {
				p := float64(n) / float64(total[six])
				least, most = min(least, p), max(most, p)
			}
		}
	}
	return least, most
}

// TestHashAvalanche wants every bit of a flow to change every bit that chooses
// the slot with a probability near a half.
func TestHashAvalanche(t *testing.T) {
	least, most := avalanche(testSeed().Hash)
	t.Logf("a bit changes with probability %.3f to %.3f", least, most)
	if least < 0.45 || most > 0.55 {
		t.Errorf("a bit changes with probability %.3f to %.3f, 0.45 to 0.55 expected", least, most)
	}
}

// TestHashAvalancheControl has one round of mixing only.
func TestHashAvalancheControl(t *testing.T) {
	least, most := avalanche(func(f Flow) uint64 {
		return mix(testSeed().foldAddresses(f.Source.Addr(), f.Destination.Addr())+uint64(f.Source.Port()), hashMultiplier0)
	})
	if least >= 0.45 && most <= 0.55 {
		t.Errorf("a poor hash is not found out: %.3f to %.3f", least, most)
	}
}

// pairCollisions changes a bit of the source and one of the destination at once,
// each with each, and counts the flows whose folded addresses stay the same.
func pairCollisions(fold func(Seed, netip.Addr, netip.Addr) uint64) int {
	random := rand.New(rand.NewPCG(3, 4))
	some := func() (b [16]byte) {
		binary.LittleEndian.PutUint64(b[:], random.Uint64())
		binary.LittleEndian.PutUint64(b[8:], random.Uint64())
		return b
	}
	collisions := 0
	for bit := range 128 * 128 {
		for range 16 {
			seed, from, to := Seed{random.Uint64(), random.Uint64()}, some(), some()
			before := fold(seed, netip.AddrFrom16(from), netip.AddrFrom16(to))
			from[bit/128/8] ^= 1 << (bit / 128 % 8)
			to[bit%128/8] ^= 1 << (bit % 8)
			if fold(seed, netip.AddrFrom16(from), netip.AddrFrom16(to)) == before {
				collisions++
			}
		}
	}
	return collisions
}

// TestHashTellsPairsApart: of IPv6, flows that differ a little in both addresses
// differ, whatever the seed. Its control sums the addresses without more ado.
func TestHashTellsPairsApart(t *testing.T) {
	if n := pairCollisions(Seed.foldAddresses); n != 0 {
		t.Errorf("%d collisions", n)
	}
	control := pairCollisions(func(s Seed, from, to netip.Addr) uint64 {
		a, b := xdp.Words(from), xdp.Words(to)
		return mix(mix(a[0]^s[0], hashMultiplier2)+a[1], hashMultiplier3) + mix(mix(b[0]^s[1], hashMultiplier3)+b[1], hashMultiplier2)
	})
	if control == 0 {
		t.Error("a poor hash is not found out")
	}
}

// TestHashCollidesNever holds the hash to what bpf/hash.h promises of IPv4: flows
// that differ in ports alone, or in the source address alone, never collide.
func TestHashCollidesNever(t *testing.T) {
	ports := make(map[uint64]bool, 1<<16)
	addresses := make(map[uint64]bool, 1<<16)
	base := Flow{netip.AddrPortFrom(ipv4().client, 40000), netip.AddrPortFrom(ipv4().vip, 443), model.TCP}
	for i := range 1 << 16 {
		f := base
		f.Source = netip.AddrPortFrom(base.Source.Addr(), uint16(i))
		ports[testSeed().Hash(f)] = true
		f.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 40000)
		addresses[testSeed().Hash(f)] = true
	}
	if len(ports) != 1<<16 || len(addresses) != 1<<16 {
		t.Errorf("%d and %d different hashes of %d flows", len(ports), len(addresses), 1<<16)
	}
}

// TestOuterChecksumTwins has packets of random length and class tunnelled
// between random addresses: every outer header must sum up.
func TestOuterChecksumTwins(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	p := loaded(t, smallLimits())
	for range 200 {
		s := services(loopback)
		for i := range s {
			if s[i].mode == model.ModeDSRIPIP && s[i].backend.Is4() {
				s[i].path.Outer = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, random.Uint32())))
			}
		}
		applyTo(t, p, stateOf(s))
		for range 100 {
			in := families()[random.IntN(2)].packet(udp{from: 1, to: portTunnel4, data: text(random.IntN(1400))})
			in.tos = uint8(random.Uint32())
			verdict, out, err := send(p, in.bytes())
			if err != nil || verdict != xdpTX {
				t.Fatalf("verdict %d, %v", verdict, err)
			}
			if header := out[headerEthernet : headerEthernet+headerIPv4]; onesSum(header) != math.MaxUint16 {
				t.Fatalf("bad outer header\n%s", dump(header))
			}
		}
	}
}

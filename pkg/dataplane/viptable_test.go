package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// manyVIPs are VIPs of both families and protocols: a quarter of them on the
// same few addresses, some in sequence, the others anywhere.
func manyVIPs(n int, random *rand.Rand) []model.VIP {
	vips := make([]model.VIP, n)
	for i := range vips {
		v := model.VIP{Name: fmt.Sprintf("vip%05d", i), Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool"}
		if i%2 == 1 {
			v.Protocol = model.UDP
		}
		number := random.Uint64()
		switch i % 8 {
		case 0, 1:
			number = uint64(i % 16)
		case 2, 3, 4:
			number = uint64(i)
		}
		address := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(number)&0xffffff|10<<24)))
		if i%3 == 0 {
			address = netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64([]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0}, number)))
		}
		v.Endpoints = listen(address, uint16(1+i))
		vips[i] = v
	}
	return vips
}

func stateOfVIPs(vips []model.VIP) forwarding.State {
	backend := netip.MustParseAddr("10.0.0.10")
	return forwarding.State{
		VIPs:  vips,
		Pools: []forwarding.Pool{settledPool("pool", 251, backend)},
		Paths: map[netip.Addr]forwarding.Path{backend: {Link: loopback, OnLink: true, MTU: mtu, Source: balancerMAC()}},
	}
}

// toVIP is a packet that starts a flow to the first endpoint of a VIP.
func toVIP(v model.VIP) []byte {
	e := v.Endpoints[0]
	return toEndpoint(e.Address, v.Protocol, e.Ports.First)
}

func toEndpoint(address netip.Addr, protocol model.Protocol, port uint16) []byte {
	client := ipv4().client
	if address.Is6() {
		client = ipv6().client
	}
	return flowPacket(Flow{netip.AddrPortFrom(client, 40000), netip.AddrPortFrom(address, port), protocol}).bytes()
}

// TestEveryVIPIsFound sends each VIP a packet, and its neighbours that are none, with one VIP
// less each time: so it meets both tables.
func TestEveryVIPIsFound(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{0, 1, 2, 100, 5000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p := loaded(t, Limits{VIPs: 5000, Pools: 1, Backends: 8, Slots: 256})
			vips := manyVIPs(n, random)
			expectVIPs(t, p, vips, 1)
			expectVIPs(t, p, vips[:max(1, n)-1], 2)
		})
	}
}

// expectVIPs applies VIPs and sends each its packet of so many.
func expectVIPs(t *testing.T, p *Plane, vips []model.VIP, packets uint64) {
	t.Helper()
	applyTo(t, p, stateOfVIPs(vips))
	ours := map[string]bool{}
	for _, v := range vips {
		ours[v.Service()] = true
	}
	for _, v := range vips {
		expectVerdict(t, p, toVIP(v), xdpTX)
	}
	for _, v := range append(vips, model.VIP{Endpoints: listen(ipv4().vip, 80), Protocol: model.TCP}) {
		for _, other := range neighbours(v) {
			if !ours[other.Service()] {
				expectVerdict(t, p, toVIP(other), xdpPass)
			}
		}
	}
	counters, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vips {
		if c := counters.VIPs[v.Name]; c.Packets != packets {
			t.Errorf("%s %s counts %d packets, want %d", v.Name, v.Service(), c.Packets, packets)
		}
	}
}

// neighbours differ from a VIP in one thing each.
func neighbours(v model.VIP) []model.VIP {
	e := v.Endpoints[0]
	protocol, port, next, previous, wide := v, v, v, v, v
	protocol.Protocol = model.TCP + model.UDP - v.Protocol
	port.Endpoints = listen(e.Address, e.Ports.First^0x8000)
	next.Endpoints = listen(e.Address.Next(), e.Ports.First)
	previous.Endpoints = listen(e.Address.Prev(), e.Ports.First)
	wide.Endpoints = listen(e.Address, 0)
	return []model.VIP{protocol, port, next, previous, wide}
}

func expectVerdict(t *testing.T, p *Plane, frame []byte, want uint32) {
	t.Helper()
	got, _, err := send(p, frame)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("verdict %d, want %d\n%s", got, want, dump(frame))
	}
}

func entriesOf(vips []model.VIP) []lbVipEntry {
	numbered := make(map[string]*vip, len(vips))
	for i, v := range vips {
		numbered[fmt.Sprint(i)] = &vip{VIP: v, id: uint32(i + 1), place: &place{id: 3}}
	}
	return buildDirectory(numbered, model.NodeSources{}, 0, (*place).backendNumbers).entries
}

// find looks an entry up as the program does.
func (t *vipTable) find(e lbVipEntry) bool { return t.entries[t.entry(&e)] == e }

func TestBuildVIPTable(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	for _, n := range []int{0, 1, 2, 3, 10, 100, 1000, 5000, 10000} {
		entries := entriesOf(manyVIPs(n, random))
		limit := vipEntries(Limits{Endpoints: uint32(max(1, n))})
		table, err := buildVIPTable(entries, limit, random)
		if err != nil {
			t.Errorf("%d VIPs: %v", n, err)
			continue
		}
		if len(table.entries) > int(limit) || 1<<table.entryBits != len(table.entries) {
			t.Errorf("%d VIPs: %d entries of at most %d, %d bits", n, len(table.entries), limit, table.entryBits)
		}
		if most := max(undisplacedEntries, 4*len(entries)); len(table.entries) > most {
			t.Errorf("%d VIPs: %d entries for %d keys, want at most %d", n, len(table.entries), len(entries), most)
		}
		filled := 0
		for _, e := range table.entries {
			if e.Endpoint != 0 {
				filled++
			}
		}
		if filled != len(entries) {
			t.Errorf("%d VIPs: %d entries are in the table, %d expected", n, filled, len(entries))
		}
		for _, e := range entries {
			if !table.find(e) {
				t.Errorf("%d VIPs: entry %+v is not in its place", n, e)
			}
		}
		for _, v := range table.multiplier {
			if v%2 == 0 {
				t.Errorf("%d VIPs: multiplier %d is even", n, v)
			}
		}
		t.Logf("%d VIPs, %d keys: %d entries, %d displacements", n, len(entries), len(table.entries), len(table.displacements))
	}
}

// TestDisplacedKeys: whatever part of the addresses and ports tells keys apart, all find room
// in the smallest table that is tried for so many.
func TestDisplacedKeys(t *testing.T) {
	random := rand.New(rand.NewPCG(15, 16))
	patterns := map[string]func(e *lbVipEntry, i uint64){
		"the last byte and the port": func(e *lbVipEntry, i uint64) { e.Address.Word[1], e.Endpoint = i<<56, uint32(6<<16|i>>8) },
		"IPv4 addresses in a row":    func(e *lbVipEntry, i uint64) { e.Address = address(ipv4At(uint32(i))) },
		"the first two bytes":        func(e *lbVipEntry, i uint64) { e.Address.Word[0] = i },
		"a subnet's bytes":           func(e *lbVipEntry, i uint64) { e.Address.Word[0] = 0xb80d0120 | i<<48 },
		"ports":                      func(e *lbVipEntry, i uint64) { e.Endpoint = uint32(17<<16 | i) },
		"anything":                   func(e *lbVipEntry, i uint64) { e.Address.Word = [2]uint64{random.Uint64(), random.Uint64()} },
	}
	const n = 10000
	for name, vary := range patterns {
		t.Run(name, func(t *testing.T) {
			entries := make([]lbVipEntry, n)
			for i := range entries {
				entries[i].Endpoint = 6<<16 | 80
				vary(&entries[i], uint64(i))
			}
			table, err := buildVIPTable(entries, 16384, random)
			if err != nil {
				t.Fatal(err)
			}
			for i := range entries {
				if !table.find(entries[i]) {
					t.Fatalf("entry %+v is not in its place", entries[i])
				}
			}
			// Keys at equal distances a hash by multiplication spreads evenly, others not.
			alone := *table
			alone.groupBits, alone.displacements = 0, nil
			if name == "anything" && alone.fits(entries) {
				t.Error("the hash alone would do, the test tests nothing")
			}
		})
	}
}

func ipv4At(i uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24+i)))
}

func TestBuildVIPTableTooSmall(t *testing.T) {
	random := rand.New(rand.NewPCG(11, 12))
	entries := entriesOf(manyVIPs(100, random))
	for _, most := range []uint32{0, 1, 2, 32, 128} {
		if _, err := buildVIPTable(entries, most, random); err == nil {
			t.Errorf("%d keys fit in %d entries", len(entries), most)
		}
	}
}

func TestVIPEntries(t *testing.T) {
	vips := []model.VIP{
		{Name: "a", Endpoints: listen(ipv4().vip, 0x1234), Protocol: model.TCP, Mode: model.ModeDSRIPIP},
		{Name: "b", Endpoints: listen(ipv4().vip, 0), Protocol: model.UDP, Mode: model.ModeDSRL2},
	}
	entries := entriesOf(vips)
	if len(entries) != 3 {
		t.Fatalf("%d entries, want 3: one for each VIP, one for their address", len(entries))
	}
	a, own, b := entries[0], entries[1], entries[2]
	if a.Endpoint != 6<<16|0x3412 || a.Mode != uint8(lbModeMODE_DSR_IPIP) || a.Vip != 1 || a.Pool != 3 {
		t.Errorf("entry of a: %+v", a)
	}
	if own.Endpoint != endpointAddress || own.Address != a.Address || own.Mode != uint8(lbModeMODE_NONE) {
		t.Errorf("entry of the address: %+v", own)
	}
	if b.Endpoint != 17<<16 || b.Mode != uint8(lbModeMODE_DSR_L2) {
		t.Errorf("entry of b: %+v", b)
	}
	random := rand.New(rand.NewPCG(13, 14))
	for n, any := range map[int]bool{1: false, 2: true} {
		table, err := buildVIPTable(entriesOf(vips[:n]), 64, random)
		if err != nil || table.wide != any {
			t.Errorf("first %d: any port %v, want %v; %v", n, table.wide, any, err)
		}
	}
}

package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// listOf is a source list of prefixes.
func listOf(t testing.TB, name string, prefixes ...string) model.SourceList {
	t.Helper()
	var all []netip.Prefix
	for _, s := range prefixes {
		p, err := model.ParseSourcePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return newList(t, name, all)
}

func newList(t testing.TB, name string, prefixes []netip.Prefix) model.SourceList {
	t.Helper()
	l, err := model.NewSourceList(name, prefixes)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// randomPrefix is one of any length from some bits on, near others: its address has
// few ones.
func randomPrefix(r *rand.Rand, ipv6 bool, least int) netip.Prefix {
	b := make([]byte, map[bool]int{false: 4, true: 16}[ipv6])
	for i := range b {
		b[i] = byte(r.Uint32() & r.Uint32())
		if r.IntN(4) == 0 {
			b[i] = byte(r.Uint32() & 3)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, least+r.IntN(a.BitLen()+1-least)).Masked()
}

// bordering are the addresses at the ends of a prefix and those beside them.
func bordering(p netip.Prefix) []netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	all := []netip.Addr{p.Addr(), p.Addr().Prev(), last, last.Next()}
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.IsValid() })
}

// TestSourceListTwins asks the packet path, its twin and a plain search about the same
// addresses.
func TestSourceListTwins(t *testing.T) {
	p := guardedPlane(t)
	r := rand.New(rand.NewPCG(1, 2))
	for round, n := range []int{0, 1, 2, 3, 5, 10, 30, 100, 300, 1000, 1000, 1000} {
		var prefixes []netip.Prefix
		for i := range n {
			least := r.IntN(17)
			if round%2 == 0 && n > 3 {
				least = 12
			}
			prefixes = append(prefixes, randomPrefix(r, i%2 == 0, least))
		}
		l := newList(t, "l", prefixes)
		nodes := buildSourceList(l.Prefixes)
		if err := p.putSourceList(7, nodes); err != nil {
			t.Fatal(err)
		}
		asked, on := 0, 0
		ask := func(a netip.Addr) {
			want := slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
			if got := onList(nodes, a); got != want {
				t.Fatalf("%d prefixes, %s: Go says %t, want %t", n, a, got, want)
			}
			if !a.Is4In6() && denies(t, p, a) != want {
				t.Fatalf("%d prefixes, %s: the packet path says %t", n, a, !want)
			}
			asked++
			if want {
				on++
			}
		}
		for _, prefix := range l.Prefixes[:min(len(l.Prefixes), 200)] {
			for _, a := range bordering(prefix) {
				ask(a)
			}
		}
		for range 200 {
			ask(randomPrefix(r, false, 32).Addr())
			ask(randomPrefix(r, true, 128).Addr())
		}
		t.Logf("%d prefixes, %d nodes: %d of %d addresses are on it", len(l.Prefixes), len(nodes), on, asked)
	}
}

// guardedPlane has one VIP, of number 0, whose guard denies whatever is on list 7.
func guardedPlane(t *testing.T) *Plane {
	t.Helper()
	p := loaded(t, smallLimits())
	applyTo(t, p, forwarding.State{
		Pools: []forwarding.Pool{settledPool("pool", 251)},
		VIPs: []model.VIP{{Name: "vip", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Sources: model.Sources{Deny: "any"},
			Endpoints: []model.Endpoint{{Address: ipv4().vip}, {Address: ipv6().vip}}}},
		SourceLists: []model.SourceList{listOf(t, "any", "0.0.0.0/0")},
	})
	p.guards.store(0, lbGuard{Deny: 7})
	return p
}

// denies reports whether the guard denies a source.
func denies(t *testing.T, p *Plane, source netip.Addr) bool {
	t.Helper()
	f := ipv4()
	if source.Is6() {
		f = ipv6()
	}
	in := f.packet(tcp{from: 4000, to: 80, flags: flagSYN})
	in.source = source
	before := p.count(t, "drop_denied")
	expectVerdict(t, p, in.bytes(), xdpDrop) // if not, there is no backend
	return p.count(t, "drop_denied") == before+1
}

// TestSourceListDense fills a run with so many values that it is read at once.
func TestSourceListDense(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var prefixes []netip.Prefix
	for i := range 30_000 {
		prefixes = append(prefixes,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 8), byte(i), byte(r.Uint32()), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 8), byte(i), byte(r.Uint32())}), 48))
	}
	l := newList(t, "l", prefixes)
	nodes := buildSourceList(l.Prefixes)
	dense := 0
	for _, n := range nodes {
		if n.Below > 1 && n.Last == listDense {
			dense++
		}
	}
	if dense != 2 {
		t.Errorf("%d runs are dense, want 2", dense)
	}
	is := map[netip.Prefix]bool{}
	for _, p := range l.Prefixes {
		is[p] = true
	}
	for range 100_000 {
		i := r.IntN(40_000)
		a4 := netip.AddrFrom4([4]byte{byte(i >> 8), byte(i), byte(r.Uint32()), byte(r.Uint32())})
		a6 := netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 8), byte(i), byte(r.Uint32()), 0, 7})
		for a, bits := range map[netip.Addr]int{a4: 24, a6: 48} {
			p, err := a.Prefix(bits)
			if err != nil {
				t.Fatal(err)
			}
			if got := onList(nodes, a); got != is[p] {
				t.Fatalf("%s: %t, want %t", a, got, is[p])
			}
		}
	}
}

// manyPrefixes are n of them: as many as lists of bad hosts have, mostly of IPv4.
func manyPrefixes(n int) []netip.Prefix {
	r := rand.New(rand.NewPCG(5, 6))
	seen := map[netip.Prefix]bool{}
	for len(seen) < n {
		if r.IntN(5) == 0 {
			a := netip.AddrFrom16([16]byte{0x20, byte(r.Uint32() & 3), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
			seen[netip.PrefixFrom(a, 32+r.IntN(33)).Masked()] = true
		} else {
			a := netip.AddrFrom4([4]byte{byte(1 + r.IntN(223)), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
			seen[netip.PrefixFrom(a, 16+r.IntN(17)).Masked()] = true
		}
	}
	all := make([]netip.Prefix, 0, n)
	for p := range seen {
		all = append(all, p)
	}
	return all
}

// BenchmarkSourceList is what it takes to make a list and have packets see it.
func BenchmarkSourceList(b *testing.B) {
	for _, n := range []int{1_000, 500_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := loaded(b, smallLimits())
			prefixes := manyPrefixes(n)
			nodes := 0
			for b.Loop() {
				l := newList(b, "l", slices.Clone(prefixes))
				made := buildSourceList(l.Prefixes)
				if err := p.putSourceList(1, made); err != nil {
					b.Fatal(err)
				}
				nodes = len(made)
			}
			b.ReportMetric(float64(8*nodes), "list-bytes")
		})
	}
}

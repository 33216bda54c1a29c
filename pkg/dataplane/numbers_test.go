package dataplane

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// backendsOf are n backends from a number on.
func backendsOf(from, n int) []model.BackendID {
	out := make([]model.BackendID, n)
	for i := range out {
		at := from + i
		out[i] = model.BackendID{Address: netip.AddrFrom4([4]byte{10, 1, byte(at >> 8), byte(at)})}
	}
	return out
}

func poolOf(name string, slots uint32, backends ...model.BackendID) forwarding.Pool {
	return forwarding.Pool{Name: name, Slots: slots, Backends: keeping(backends)}
}

// keeping are backends that keep the flows they have.
func keeping(ids []model.BackendID) []forwarding.Backend {
	out := make([]forwarding.Backend, len(ids))
	for i, id := range ids {
		out[i] = forwarding.Backend{ID: id, Keeps: true}
	}
	return out
}

func TestNewPlace(t *testing.T) {
	n := newNumbers(Limits{VIPs: 4, Pools: 3, Backends: 64, Slots: 1024})
	small := poolOf("small", 251, backendsOf(0, 3)...)
	a, err := n.newPlace(&small)
	if err != nil {
		t.Fatal(err)
	}
	if a.lines.length() != 16 || a.backends.length() != minPlace || a.backends.start != uint32(lbOwnerOWNER_FIRST) {
		t.Errorf("small: %s, want 16 lines and %d backends from the first on", a, minPlace)
	}
	if a.base() != 0 || a.owners[small.Backends[0].ID] != 2 || a.owners[small.Backends[2].ID] != 4 {
		t.Errorf("small: base %d, owners %v", a.base(), a.owners)
	}
	large := poolOf("large", 257, backendsOf(0, 9)...)
	b, err := n.newPlace(&large)
	if err != nil {
		t.Fatal(err)
	}
	if b.lines.length() != 17 || b.backends.length() != 16 || b.lines.start != a.lines.end || b.backends.start != a.backends.end {
		t.Errorf("large: %s, want 17 lines and 16 backends behind those of %s", b, a)
	}
	want := lbPool{SlotBase: 256, Slots: 257, BackendBase: minPlace}
	if got := b.record(); got != want {
		t.Errorf("record %+v, want %+v", got, want)
	}
	n.release(a)
	again, err := n.newPlace(&small)
	if err != nil || again.id != a.id || again.lines != a.lines || again.backends != a.backends {
		t.Errorf("after release: %s, %v, want %s", again, err, a)
	}
}

func TestNewPlaceWithoutRoom(t *testing.T) {
	limits := Limits{VIPs: 1, Pools: 1, Backends: 16, Slots: 512}
	for name, p := range map[string]forwarding.Pool{
		"slots":    poolOf("p", 521, backendsOf(0, 1)...),
		"backends": poolOf("p", 251, backendsOf(0, 17)...),
	} {
		n := newNumbers(limits)
		if _, err := n.newPlace(&p); err == nil {
			t.Errorf("%s: a pool fits that is too large", name)
		}
	}
	n := newNumbers(limits)
	for i, p := range []forwarding.Pool{poolOf("a", 251, backendsOf(0, 1)...), poolOf("b", 251, backendsOf(0, 1)...)} {
		if _, err := n.newPlace(&p); (err == nil) != (i == 0) {
			t.Errorf("pool %d of 1: %v", i, err)
		}
	}
}

func TestPlaceFits(t *testing.T) {
	n := newNumbers(Limits{VIPs: 1, Pools: 4, Backends: 64, Slots: 1024})
	p := poolOf("p", 251, backendsOf(0, 6)...)
	at, err := n.newPlace(&p)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		pool forwarding.Pool
		want bool
	}{
		"the same":                     {p, true},
		"two more":                     {poolOf("p", 251, backendsOf(0, 8)...), true},
		"three more":                   {poolOf("p", 251, backendsOf(0, 9)...), false},
		"others, few enough":           {poolOf("p", 251, backendsOf(100, 2)...), true},
		"others, while the old remain": {poolOf("p", 251, backendsOf(100, 3)...), false},
		"none":                         {poolOf("p", 251), true},
		"other table size":             {poolOf("p", 257, backendsOf(0, 6)...), false},
	} {
		if got := at.fits(&c.pool); got != c.want {
			t.Errorf("%s: fits %v, want %v", name, got, c.want)
		}
	}
}

// TestNumbersStay: whatever comes, a backend keeps its number, no two have the
// same, all are within the place, and a place that is in use never changes.
func TestNumbersStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNumbers(Limits{VIPs: 1, Pools: 4, Backends: 64, Slots: 1024})
		all := backendsOf(0, 16)
		draw := func(label string) []model.BackendID {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, 8, rapid.ID).Draw(t, label)
		}
		p := poolOf("p", 251, draw("first")...)
		at, err := n.newPlace(&p)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			p.Backends = keeping(draw("next"))
			if !at.fits(&p) {
				continue
			}
			before := make(map[model.BackendID]uint32, len(at.owners))
			for id, owner := range at.owners {
				before[id] = owner
			}
			next := *at
			next.owners = at.numbered(p.Backends)
			if len(at.owners) != len(before) {
				t.Fatal("the place in use changed")
			}
			taken := map[uint32]bool{}
			for id, owner := range next.owners {
				if was, known := before[id]; known && was != owner {
					t.Fatalf("%s was %d and is %d", id, was, owner)
				}
				if taken[owner] || owner < uint32(lbOwnerOWNER_FIRST) || owner-uint32(lbOwnerOWNER_FIRST) >= next.backends.length() {
					t.Fatalf("number %d of %s is taken or outside of %s", owner, id, &next)
				}
				taken[owner] = true
			}
			for _, b := range p.Backends {
				if _, known := next.owners[b.ID]; !known {
					t.Fatalf("%s has no number", b.ID)
				}
			}
			at = &next
		}
	})
}

func TestCeilPowerOfTwo(t *testing.T) {
	for n, want := range map[uint32]uint32{0: 1, 1: 1, 2: 2, 3: 4, 8: 8, 9: 16, 65535: 65536, 65536: 65536, 1<<30 + 1: 1 << 31} {
		if got := ceilPowerOfTwo(n); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}

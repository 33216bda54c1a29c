package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// dumped is what a map holds, in an order of its own.
func dumped(m *ebpf.Map) ([]byte, error) {
	var all [][]byte
	switch m.Type() {
	case ebpf.Array:
		err := inMemory(m, func(b []byte) { all = append(all, bytes.Clone(b)) })
		return slices.Concat(all...), err
	case ebpf.ArrayOfMaps, ebpf.ProgramArray: // where something is, whatever its number
		for key := range m.MaxEntries() {
			var id uint32
			if err := m.Lookup(key, &id); err == nil {
				all = append(all, fmt.Appendln(nil, key))
			} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
				return nil, err
			}
		}
		return slices.Concat(all...), nil
	}
	for key, err := m.NextKeyBytes(nil); key != nil || err != nil; key, err = m.NextKeyBytes(key) {
		if err != nil {
			return nil, err
		}
		value, err := m.LookupBytes(key)
		if err != nil {
			return nil, err
		}
		all = append(all, slices.Concat(key, value))
	}
	slices.SortFunc(all, bytes.Compare)
	return slices.Concat(all...), nil
}

// differ lists the maps that do not hold the same.
func differ(t *testing.T, spec *ebpf.CollectionSpec, one, other *Plane) []string {
	t.Helper()
	var names []string
	a, b := one.mapsByName(), other.mapsByName()
	for name, m := range spec.Maps {
		if m.Flags&unix.BPF_F_RDONLY_PROG != 0 {
			continue
		}
		is, err := dumped(a[name])
		was, wasErr := dumped(b[name])
		if err := errors.Join(err, wasErr); err != nil {
			t.Fatalf("map %s: %v", name, err)
		}
		if !bytes.Equal(is, was) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// soil puts something into every place of a map, or into one of a hash.
func soil(p *Plane, m *ebpf.Map, random *rand.ChaCha8) error {
	noise := func(n uint32) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	switch m.Type() {
	case ebpf.Array:
		return inMemory(m, func(b []byte) { random.Read(b) })
	case ebpf.PerCPUArray:
		for key := range m.MaxEntries() {
			var perCPU [][]byte
			for range ebpf.MustPossibleCPU() {
				perCPU = append(perCPU, noise(m.ValueSize()))
			}
			if err := m.Put(key, perCPU); err != nil {
				return err
			}
		}
		return nil
	case ebpf.Hash, ebpf.LRUHash:
		return m.Put(noise(m.KeySize()), noise(m.ValueSize()))
	case ebpf.DevMapHash:
		return m.Put(uint32(7), uint32(loopback))
	case ebpf.ArrayOfMaps:
		inner, err := ebpf.NewMap(p.lists.spec)
		if err != nil {
			return err
		}
		return errors.Join(m.Put(uint32(0), inner), inner.Close())
	case ebpf.ProgramArray:
		return m.Delete(uint32(lbPartPART_NAT))
	}
	return fmt.Errorf("nothing is known of maps of type %s", m.Type())
}

// TestSpareIsAsNew: whatever a test has left in the maps, the next one's are those that
// Load makes. The control is that what was left is seen, in every map.
func TestSpareIsAsNew(t *testing.T) {
	for name, key := range map[string]spareKey{
		"small":       {smallLimits(), testOptions()},
		"nat":         {smallLimits(), natOptions()},
		"flows":       {withRoom(Limits{VIPs: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: 1 << 16}), Options{Seed: Seed{1, 2}}},
		"odd numbers": {Limits{VIPs: 5, Endpoints: 7, Pools: 3, Backends: 9, Slots: 300, Flows: 33, Fragments: 17, Splices: 3, SourceLists: 3, Sources: 5}, natOptions()},
	} {
		t.Run(name, func(t *testing.T) {
			fresh, err := Load(key.limits, key.options)
			if err != nil {
				t.Fatal(err)
			}
			defer fresh.Close()
			s, err := newSpare(key)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			p, err := s.plane(key)
			if err != nil {
				t.Fatal(err)
			}
			if names := differ(t, s.spec, p, fresh); len(names) > 0 {
				t.Errorf("a first one differs in %s", strings.Join(names, ", "))
			}
			s.soilAll(t, p, fresh)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if p, err = s.plane(key); err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if names := differ(t, s.spec, p, fresh); len(names) > 0 {
				t.Errorf("the next one differs in %s", strings.Join(names, ", "))
			}
		})
	}
}

// soilAll soils every map of a Plane and wants all of them to differ from a fresh one's.
func (s *spare) soilAll(t *testing.T, p, fresh *Plane) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	var want []string
	for name, m := range p.mapsByName() {
		if err := soil(p, m, random); err != nil {
			t.Fatalf("soil map %s: %v", name, err)
		}
		want = append(want, name)
	}
	slices.Sort(want)
	if got := differ(t, s.spec, p, fresh); !slices.Equal(got, want) {
		t.Errorf("soiled and seen: %q, want %q", got, want)
	}
	if s.reusable(p) {
		t.Error("another test would get an LRU map that was used")
	}
}

// TestSparesAreNobodyElses: two tests at a time have different ones, and the next has one
// that was given back.
func TestSparesAreNobodyElses(t *testing.T) {
	key := spareKey{withRoom(Limits{VIPs: 1, Pools: 1, Backends: 1, Slots: 16}), testOptions()}
	var s spareParts
	one, err := s.take(key)
	if err != nil {
		t.Fatal(err)
	}
	defer one.close()
	other, err := s.take(key)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if one == other {
		t.Fatal("the same for two")
	}
	if err := s.giveBack(key, one); err != nil {
		t.Fatal(err)
	}
	if next, err := s.take(key); err != nil || next != one {
		t.Errorf("got %p (%v), want %p, which was given back", next, err, one)
	}
}

package maglev

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// reference builds a table in the plainest way that the documentation allows:
// whole permutations, one round after the other.
func reference(size uint32, members []member, quota []uint32) []uint32 {
	heaviest := slices.MaxFunc(members, func(a, b member) int { return cmp.Compare(a.weight, b.weight) }).weight
	slots := slices.Repeat([]uint32{None}, int(size))
	turns := make([]uint32, len(members))
	for round, claimed := uint64(0), uint32(0); claimed < size; round++ {
		for i, m := range members {
			due := uint64(turns[i]) * uint64(heaviest) / uint64(m.weight)
			if turns[i] == quota[i] || due != round {
				continue
			}
			turns[i]++
			for j := range uint64(size) {
				slot := (uint64(m.next) + j*uint64(m.skip)) % uint64(size)
				if slots[slot] == None {
					slots[slot] = m.index
					claimed++
					break
				}
			}
		}
	}
	return slots
}

// paperMembers are those of table 1 of the paper, (offset, skip) = (3,4),
// (0,2), (3,1), called B1, B2, B3 by their indices here.
func paperMembers() []member {
	return []member{
		{index: 1, weight: 1, next: 3, skip: 4},
		{index: 2, weight: 1, next: 0, skip: 2},
		{index: 3, weight: 1, next: 3, skip: 1},
	}
}

func TestPaperExample(t *testing.T) {
	if got, want := assemble(7, paperMembers()), []uint32{2, 1, 2, 1, 3, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("with all three: %v, want %v", got, want)
	}
	if got, want := assemble(7, slices.Delete(paperMembers(), 1, 2)), []uint32{1, 1, 1, 1, 3, 3, 3}; !slices.Equal(got, want) {
		t.Errorf("without B2: %v, want %v", got, want)
	}
}

func TestWeightsSetTheOrderOfTurns(t *testing.T) {
	members := []member{{weight: 3}, {weight: 1}, {weight: 2}}
	quota := []uint32{6, 2, 4}
	// The member of weight 2 is due at 0, 1.5, 3 and 4.5; rounds are 0 to 5.
	want := slices.Concat([]uint32{0, 1, 2}, []uint32{0, 2}, []uint32{0}, []uint32{0, 1, 2}, []uint32{0, 2}, []uint32{0})
	if got := schedule(members, quota); !slices.Equal(got, want) {
		t.Errorf("turns %v, want %v", got, want)
	}
}

// backendsGen draws up to 40 backends with weights of all magnitudes.
func backendsGen() *rapid.Generator[[]Backend] {
	weight := rapid.OneOf(
		rapid.Just(uint32(1)),
		rapid.Uint32Range(0, 3),
		rapid.Uint32Range(0, 100),
		rapid.Uint32(),
		rapid.SampledFrom([]uint32{0, 1_000_000, 1<<31 - 1, 1<<32 - 1}),
	)
	backend := rapid.Custom(func(t *rapid.T) Backend {
		return Backend{ID: rapid.StringN(0, 20, -1).Draw(t, "id"), Weight: weight.Draw(t, "weight")}
	})
	return rapid.SliceOfNDistinct(backend, 0, 40, func(b Backend) string { return b.ID })
}

func sizeGen() *rapid.Generator[uint32] {
	return rapid.SampledFrom([]uint32{2, 3, 5, 7, 13, 31, 251, 1009, 4093})
}

func build(t testing.TB, size uint32, backends []Backend) []uint32 {
	t.Helper()
	slots, err := Build(size, backends)
	if err != nil {
		t.Fatal(err)
	}
	return slots
}

func TestBuildIsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, backends := sizeGen().Draw(t, "size"), backendsGen().Draw(t, "backends")
		got, err := Build(size, backends)
		if err != nil {
			t.Fatal(err)
		}
		var members []member
		for i, b := range backends {
			if b.Weight > 0 {
				offset, skip := permutation(size, b.ID)
				members = append(members, member{index: uint32(i), weight: b.Weight, next: offset, skip: skip})
			}
		}
		if len(members) == 0 {
			if !slices.Equal(got, slices.Repeat([]uint32{None}, int(size))) {
				t.Fatalf("a table of nobody has an owner: %v", got)
			}
			return
		}
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(backends[a.index].ID, backends[b.index].ID) })
		if want := reference(size, members, quotas(size, members)); !slices.Equal(got, want) {
			t.Fatalf("table %v, want %v", got, want)
		}
	})
}

func TestSharesAreProportional(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, backends := sizeGen().Draw(t, "size"), backendsGen().Draw(t, "backends")
		slots, err := Build(size, backends)
		if err != nil {
			t.Fatal(err)
		}
		var total uint64
		for _, b := range backends {
			total += uint64(b.Weight)
		}
		if total == 0 {
			return
		}
		for i, owned := range counts(slots, len(backends)) {
			// Off by less than a slot: |owned - size*weight/total| < 1, times total.
			share := uint64(size) * uint64(backends[i].Weight)
			if owned*total >= share+total || share >= owned*total+total {
				t.Fatalf("backend %d of weight %d owns %d slots, its share is %g",
					i, backends[i].Weight, owned, float64(share)/float64(total))
			}
		}
	})
}

// counts returns how many slots each of n backends owns. It panics if a slot
// has no owner.
func counts(slots []uint32, n int) []uint64 {
	owned := make([]uint64, n)
	for _, owner := range slots {
		owned[owner]++
	}
	return owned
}

// Without quotas, one heavy backend pays for the rounding of all light ones.
func TestSharesNeedQuotas(t *testing.T) {
	const size, heavy = 65537, 1_000_000
	backends := numbered(1000)
	backends[500].Weight = heavy
	share := uint64(size) * heavy / (heavy + 999)
	if owned := counts(build(t, size, backends), 1000)[500]; owned != share && owned != share+1 {
		t.Errorf("the heavy backend owns %d slots, its share is %d", owned, share)
	}
	// Turns by time alone: everybody's first comes before the heavy one's second.
	if unquoted := uint64(size - 999); unquoted+2 >= share {
		t.Errorf("control: %d slots by time alone is no worse than %d", unquoted, share)
	}
}

func TestOrderOfBackendsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, backends := sizeGen().Draw(t, "size"), backendsGen().Draw(t, "backends")
		shuffled := rapid.Permutation(backends).Draw(t, "shuffled")
		if a, b := owners(t, size, backends), owners(t, size, shuffled); !slices.Equal(a, b) {
			t.Fatalf("%v in one order, %v in another", a, b)
		}
	})
	// The order inside does: without sorting, the table would be another.
	members := paperMembers()
	slices.Reverse(members)
	if slices.Equal(assemble(7, members), assemble(7, paperMembers())) {
		t.Error("control: the order of members changes nothing")
	}
}

// owners returns the ID of every slot's owner.
func owners(t *rapid.T, size uint32, backends []Backend) []string {
	slots, err := Build(size, backends)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, size)
	for i, owner := range slots {
		if owner != None {
			ids[i] = "owned by " + backends[owner].ID
		}
	}
	return ids
}

func TestWeightZeroIsAbsence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, backends := sizeGen().Draw(t, "size"), backendsGen().Draw(t, "backends")
		weighty := slices.DeleteFunc(slices.Clone(backends), func(b Backend) bool { return b.Weight == 0 })
		if a, b := owners(t, size, backends), owners(t, size, weighty); !slices.Equal(a, b) {
			t.Fatalf("%v with backends of weight 0, %v without", a, b)
		}
	})
}

func TestOnlyProportionsMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, backends := sizeGen().Draw(t, "size"), backendsGen().Draw(t, "backends")
		factor := rapid.Uint32Range(2, 1000).Draw(t, "factor")
		scaled := slices.Clone(backends)
		for i := range backends {
			backends[i].Weight %= 1 << 22
			scaled[i].Weight = backends[i].Weight * factor
		}
		if a, b := owners(t, size, backends), owners(t, size, scaled); !slices.Equal(a, b) {
			t.Fatalf("%v, times %d %v", a, factor, b)
		}
	})
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		size     uint32
		backends []Backend
		want     string
	}{
		{0, nil, "size 0 is not a prime"},
		{1, nil, "size 1 is not a prime"},
		{65536, numbered(2), "size 65536 is not a prime"},
		{65539 * 3, numbered(2), "size 196617 is not a prime"},
		{251, []Backend{{"a", 1}, {"b", 1}, {"a", 2}}, `backend "a" is there twice`},
		{251, []Backend{{"a", 0}, {"a", 0}}, `backend "a" is there twice`},
	} {
		slots, err := Build(c.size, c.backends)
		if err == nil || !strings.Contains(err.Error(), c.want) || slots != nil {
			t.Errorf("Build(%d, %v) = %d slots, error %v; want %q", c.size, c.backends, len(slots), err, c.want)
		}
	}
}

func TestInverse(t *testing.T) {
	for _, size := range []uint64{2, 3, 7, 65537, 16777213, 4294967291} {
		for x := uint64(1); x < size; x += 1 + size/100 {
			if got := inverse(x, size); got >= size || got*x%size != 1 {
				t.Errorf("inverse(%d, %d) = %d", x, size, got)
			}
		}
	}
}

// TestShares: shares are the slots that the table has for each, without it, and a table can
// be computed more than once.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		backends := numbered(rapid.IntRange(0, 20).Draw(t, "backends"))
		for i := range backends {
			backends[i].Weight = rapid.Uint32Range(0, 5).Draw(t, "weight")
		}
		table, err := New(rapid.SampledFrom([]uint32{2, 7, 251, 1009}).Draw(t, "size"), backends)
		if err != nil {
			t.Fatal(err)
		}
		counts := make([]uint32, len(backends))
		owners := table.Owners()
		for _, owner := range owners {
			if owner != None {
				counts[owner]++
			}
		}
		if shares := table.Shares(); !slices.Equal(shares, counts) {
			t.Fatalf("shares %v, and the table has %v", shares, counts)
		}
		if !slices.Equal(owners, table.Owners()) {
			t.Fatal("the table is another one the second time")
		}
	})
}

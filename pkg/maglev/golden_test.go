package maglev

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// The numbers in this file are a promise between nodes of different versions.
// If a test here fails, do not change the number: change the code back.

func TestMixIsSplitMix64(t *testing.T) {
	// The first outputs of SplitMix64 from seed 0.
	for i, want := range []uint64{0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f} {
		seed := uint64(0)
		for range i + 1 {
			seed += goldenRatio
		}
		if got := mix(seed); got != want {
			t.Errorf("output %d is %#x, want %#x", i, got, want)
		}
	}
}

func TestHashIsMixedFNV(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.String().Draw(t, "id")
		f := fnv.New64a()
		f.Write([]byte(id))
		if got, want := hash(id), mix(f.Sum64()); got != want {
			t.Fatalf("hash %#x, want %#x", got, want)
		}
	})
}

func TestGoldenPermutations(t *testing.T) {
	for _, c := range []struct {
		id           string
		hash         uint64
		offset, skip uint32
	}{
		{"", 0xf52a15e9a9b5e89b, 24486, 11985},
		{"a", 0x02c0bdbf481420f8, 37859, 23323},
		{"10.0.0.1", 0x7fb1b600f0f5c6d3, 3117, 61688},
		{"10.0.0.2", 0x8a4036ee47892109, 34351, 18312},
		{"10.0.0.1:8080", 0xe6be330c3d44a2e2, 45549, 14687},
		{"[2001:db8::10]:443", 0x5feabe2b655cccf3, 50648, 48901},
	} {
		offset, skip := permutation(65537, c.id)
		if h := hash(c.id); h != c.hash || offset != c.offset || skip != c.skip {
			t.Errorf("{%q, %#x, %d, %d},", c.id, h, offset, skip)
		}
	}
}

func TestGoldenTables(t *testing.T) {
	for _, c := range []struct {
		name     string
		size     uint32
		backends int
		weight   func(i int) uint32
		sum      string
	}{
		{"equal", 65537, 1000, func(int) uint32 { return 1 }, "e8751398686b7324"},
		{"equal, large", 655373, 100, func(int) uint32 { return 7 }, "49f8f6df773b754a"},
		{"uneven", 65537, 100, func(i int) uint32 { return uint32(i % 10) }, "e4c3da5d2e727603"},
		{"one heavy", 65537, 1000, func(i int) uint32 { return max(1, uint32(i/999)*1_000_000) }, "34077f95c160a66d"},
		{"extreme", 251, 10, func(i int) uint32 { return math.MaxUint32 >> i }, "9d586fb1b5576cb1"},
	} {
		backends := numbered(c.backends)
		for i := range backends {
			backends[i].Weight = c.weight(i)
		}
		var bytes []byte
		for _, owner := range build(t, c.size, backends) {
			bytes = binary.LittleEndian.AppendUint32(bytes, owner)
		}
		sum := sha256.Sum256(bytes)
		if got := hex.EncodeToString(sum[:8]); got != c.sum {
			t.Errorf("%s: the table's SHA-256 begins with %s, want %s", c.name, got, c.sum)
		}
	}
}

package maglev

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func BenchmarkBuild(b *testing.B) {
	equal := func(int) uint32 { return 1 }
	random := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		weights  string
		size     uint32
		backends int
		weight   func(i int) uint32
	}{
		{"equal", 65537, 10, equal},
		{"equal", 65537, 100, equal},
		{"equal", 65537, 1000, equal},
		{"equal", 655373, 10, equal},
		{"equal", 655373, 100, equal},
		{"equal", 655373, 1000, equal},
		{"equal", 16777213, 1000, equal},
		{"random", 65537, 1000, func(int) uint32 { return 1 + random.Uint32N(100) }},
		{"random", 655373, 1000, func(int) uint32 { return 1 + random.Uint32N(100) }},
		{"one-heavy", 65537, 1000, func(i int) uint32 { return max(1, 1_000_000*uint32(i/999)) }},
		{"one-heavy", 655373, 1000, func(i int) uint32 { return max(1, 1_000_000*uint32(i/999)) }},
	} {
		b.Run(fmt.Sprintf("weights=%s/size=%d/backends=%d", c.weights, c.size, c.backends), func(b *testing.B) {
			backends := numbered(c.backends)
			for i := range backends {
				backends[i].Weight = c.weight(i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Build(c.size, backends); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// numbered returns n backends of weight 1 with addresses in 10.0.0.0/8.
func numbered(n int) []Backend {
	backends := make([]Backend, n)
	for i := range backends {
		backends[i] = Backend{ID: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), Weight: 1}
	}
	return backends
}

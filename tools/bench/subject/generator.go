package subject

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
)

// SetUp makes a generator's frames those of the case. The generator is a program that
// includes generate.h, not yet loaded.
func (c *Case) SetUp(generator *ebpf.CollectionSpec) error {
	target := c.Target()
	var wirePort [2]byte
	binary.BigEndian.PutUint16(wirePort[:], target.Port())
	for name, value := range map[string]any{
		"frame":        FrameWords(c.Frame()),
		"header":       c.header(),
		"ipv6":         c.IPv6,
		"reversed":     c.Packets == ErrorsICMP,
		"destination":  addressEnd(target.Addr()),
		"destinations": c.destinations(),
		"port":         wirePort,
	} {
		if err := generator.Variables[name].Set(value); err != nil {
			return fmt.Errorf("generator: %s: %w", name, err)
		}
	}
	return nil
}

// Shuffle is a stride that leads to every flow, far from the one before.
func Shuffle(flows uint64) uint64 {
	golden := (math.Sqrt(5) - 1) / 2
	for stride := uint64(float64(flows) * golden); stride > 1; stride-- {
		if gcd(stride, flows) == 1 {
			return stride
		}
	}
	return min(1, flows-1)
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

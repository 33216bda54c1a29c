package subject

import (
	"encoding/binary"
	"fmt"

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

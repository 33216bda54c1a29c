package execution

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Counts are what has been executed: instructions of the programs as they were compiled,
// and among them those that call bpf_map_lookup_elem or another helper of the kernel's.
type Counts struct{ Instructions, Lookups, Calls uint64 }

func (c Counts) times(n uint64) Counts {
	return Counts{c.Instructions * n, c.Lookups * n, c.Calls * n}
}

func (c Counts) plus(d Counts) Counts {
	return Counts{c.Instructions + d.Instructions, c.Lookups + d.Lookups, c.Calls + d.Calls}
}

// Minus is what has been executed since d.
func (c Counts) Minus(d Counts) Counts {
	return Counts{c.Instructions - d.Instructions, c.Lookups - d.Lookups, c.Calls - d.Calls}
}

// Counter counts what rewritten programs execute, all of them together. Runs on several
// CPUs at once may be missed.
type Counter struct {
	// blocks are what each block executes, by the maps that have the numbers of times.
	blocks map[*ebpf.Map][]Counts
}

// NewCounter returns a counter of no programs. The caller closes it after them.
func NewCounter() *Counter { return &Counter{blocks: map[*ebpf.Map][]Counts{}} }

// Rewrite makes the counter count what all programs of a collection execute, when they
// have been loaded. The programs need to be linked, as [ebpf.LoadCollectionSpec] does it.
func (c *Counter) Rewrite(spec *ebpf.CollectionSpec) error {
	for name, program := range spec.Programs {
		if err := c.rewrite(program); err != nil {
			return fmt.Errorf("rewrite program %s: %w", name, err)
		}
	}
	return nil
}

func (c *Counter) rewrite(program *ebpf.ProgramSpec) error {
	f, err := newFlow(program.Instructions)
	if err != nil {
		return err
	}
	var blocks []Counts
	for _, b := range f.blocks() {
		blocks = append(blocks, countsOf(f.program[b.start:b.end]))
	}
	times, err := ebpf.NewMap(&ebpf.MapSpec{Name: "times", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 * len(blocks)), MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("a map to count in: %w", err)
	}
	c.blocks[times] = blocks
	program.Instructions, err = f.rewrite(func(block int, free registers, stack int16) asm.Instructions {
		return addOne(times, uint32(8*block), free, stack)
	})
	return err
}

// countsOf is what instructions are that are executed once.
func countsOf(all asm.Instructions) (c Counts) {
	c.Instructions = uint64(len(all))
	for i := range all {
		switch ins := &all[i]; {
		case isCall(ins, asm.FnMapLookupElem):
			c.Lookups++
		case ins.IsBuiltinCall(), ins.IsKfuncCall():
			c.Calls++
		}
	}
	return c
}

// addOne adds one to the number at an offset in the value of a map. It needs two registers:
// where they are not free, others are saved on the stack.
func addOne(m *ebpf.Map, offset uint32, free registers, stack int16) asm.Instructions {
	var save, restore asm.Instructions
	// What these have is never in doubt: no call reads them.
	for r := asm.R9; free.count() < 2; r-- {
		if free&only(r) != 0 {
			continue
		}
		stack = stack/8*8 + 8
		free |= only(r)
		save = append(save, asm.StoreMem(asm.R10, -stack, r, asm.DWord))
		restore = append(restore, asm.LoadMem(r, asm.R10, -stack, asm.DWord))
	}
	address, number := free.list()[0], free.list()[1]
	load := asm.LoadMapValue(address, 0, offset)
	if err := load.AssociateMap(m); err != nil {
		panic(err) // it is a load from a map
	}
	return slices.Concat(save, asm.Instructions{
		load,
		asm.LoadMem(number, address, 0, asm.DWord),
		asm.Add.Imm(number, 1),
		asm.StoreMem(address, 0, number, asm.DWord),
	}, restore)
}

// Counts returns what has been executed so far.
func (c *Counter) Counts() (Counts, error) {
	var sum Counts
	for m, blocks := range c.blocks {
		times := make([]uint64, len(blocks))
		if err := m.Lookup(uint32(0), times); err != nil {
			return Counts{}, fmt.Errorf("read how often blocks were executed: %w", err)
		}
		for i, n := range times {
			sum = sum.plus(blocks[i].times(n))
		}
	}
	return sum, nil
}

// Close releases what the counter counts in.
func (c *Counter) Close() error {
	var err error
	for m := range c.blocks {
		err = errors.Join(err, m.Close())
	}
	return err
}

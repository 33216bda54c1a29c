package dataplane

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/flux"
)

// memory is an array map with BPF_F_MMAPABLE as Go sees it: a slice of its
// elements, shared with the kernel. T is the generated twin of the element.
type memory[T any] struct {
	bytes    []byte
	elements []T
}

func mapMemory[T any](m *ebpf.Map) (memory[T], error) {
	var element T
	if size := int(m.ValueSize()); size != int(unsafe.Sizeof(element)) || size%8 != 0 {
		return memory[T]{}, fmt.Errorf("map %s: elements of %d bytes, %d expected", m, size, unsafe.Sizeof(element))
	}
	n := int(m.MaxEntries())
	length := n * int(m.ValueSize())
	pages := (length + os.Getpagesize() - 1) / os.Getpagesize() * os.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, pages, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return memory[T]{}, fmt.Errorf("map %s: mmap: %w", m, err)
	}
	return memory[T]{bytes: b, elements: unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)}, nil
}

func (m *memory[T]) close() error {
	if m.bytes == nil {
		return nil
	}
	err := unix.Munmap(m.bytes)
	m.bytes, m.elements = nil, nil
	return err
}

// store publishes an element 8 bytes at a time, each atomically, so that the
// program reads no torn word; several words it may read from both versions.
func (m *memory[T]) store(index uint32, value T) {
	words := int(unsafe.Sizeof(value)) / 8
	to := unsafe.Slice((*uint64)(unsafe.Pointer(&m.elements[index])), words)
	from := unsafe.Slice((*uint64)(unsafe.Pointer(&value)), words)
	for i := range to {
		if atomic.LoadUint64(&to[i]) != from[i] {
			atomic.StoreUint64(&to[i], from[i])
		}
	}
}

// slotWords are the slots of a place in the map, one 32-bit word each.
func (p *Plane) slotWords(at *place) []flux.Word {
	return unsafe.Slice((*flux.Word)(&p.slots.elements[at.lines.start].Slot[0]), at.slots)
}

// quiesce waits until every packet that may still see what was in the maps
// before has left the program: an RCU grace period (membarrier(2)).
func quiesce() error {
	const membarrierCmdGlobal = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierCmdGlobal, 0, 0); errno != 0 {
		return fmt.Errorf("membarrier: %w", errno)
	}
	return nil
}

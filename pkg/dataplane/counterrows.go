package dataplane

import (
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// counterRows are counters of which each CPU has a row of its own; see vip_rows in
// bpf/maps.h.
type counterRows struct {
	memory[lbCounters]
	row uint32
}

// countersPerLine of the cache.
const countersPerLine = 2

// rowOf is how many counters a row has that has room for n: whole cache lines.
func rowOf(n uint32) uint32 { return (n + countersPerLine - 1) / countersPerLine * countersPerLine }

// rowsOf are the counters of all rows together.
func rowsOf(n uint32) uint32 { return rowOf(n) * uint32(ebpf.MustPossibleCPU()) }

// mapRows maps what [rowsOf] has given its size.
func mapRows(m *ebpf.Map) (counterRows, error) {
	mapped, err := mapMemory[lbCounters](m)
	return counterRows{mapped, m.MaxEntries() / uint32(ebpf.MustPossibleCPU())}, err
}

func (r *counterRows) cpus() uint32 { return uint32(len(r.elements)) / r.row }

// at is what a CPU counts under an index.
func (r *counterRows) at(cpu, index uint32) *lbCounters { return &r.elements[cpu*r.row+index] }

func (r *counterRows) sum(index uint32) model.Counters {
	var sum model.Counters
	for cpu := range r.cpus() {
		c := r.at(cpu, index)
		sum.Packets += atomic.LoadUint64(&c.Packets)
		sum.Bytes += atomic.LoadUint64(&c.Bytes)
		sum.Connections += atomic.LoadUint64(&c.Connections)
	}
	return sum
}

// clear zeroes an index that is no longer used, for whoever gets it next.
func (r *counterRows) clear(index uint32) {
	for cpu := range r.cpus() {
		*r.at(cpu, index) = lbCounters{}
	}
}

// copyFrom copies what others, or these, count under an index to one under which nobody
// counts yet.
func (r *counterRows) copyFrom(other *counterRows, from, to uint32) {
	for cpu := range r.cpus() {
		*r.at(cpu, to) = *other.at(cpu, from)
	}
}

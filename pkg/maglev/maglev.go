// Package maglev builds weighted Maglev lookup tables after Eisenbud et al.,
// "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
// section 3.4.
//
// A table is a pure function of its size and of the identities and weights of
// its backends. It is computed in unsigned 64-bit integers only, so every node
// of a fleet builds the same one. The order of that computation and the hash
// are therefore a promise between nodes that run different versions: a change
// of either moves flows, and golden tests pin both.
package maglev

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Backend is a member of a table.
type Backend struct {
	// ID is unique within a table and, together with the table's size, decides
	// which slots the backend prefers.
	ID string
	// Weight is the backend's share of the slots in proportion to the others'.
	// Any value is good; a backend of weight 0 owns no slot, and the table is
	// the one that would be built without it.
	Weight uint32
}

// None marks a slot without owner in a table in which no backend has weight.
const None = ^uint32(0)

// Build returns a table of size slots, each the index into backends of its
// owner, or None in every slot if no backend has weight.
//
// It fails where [New] does, and keeps nothing of its arguments.
func Build(size uint32, backends []Backend) ([]uint32, error) {
	t, err := New(size, backends)
	if err != nil {
		return nil, err
	}
	return t.Owners(), nil
}

// Table is a table that is computed when it is asked for. It never changes and may be
// used by several goroutines at once.
type Table struct {
	size uint32
	// backends counts those without weight as well.
	backends int
	members  []member
}

// New returns the table of size slots of some backends. Size is a prime: only
// then does every backend's permutation visit all slots.
//
// Every backend owns its proportional share of the slots, rounded up or down.
// With equal weights the table is the paper's. The order of backends does not
// matter.
//
// It fails if size is not a prime or two backends have the same ID. It keeps nothing of
// its arguments.
func New(size uint32, backends []Backend) (*Table, error) {
	// Below 2^64, ProbablyPrime is exact.
	if !new(big.Int).SetUint64(uint64(size)).ProbablyPrime(0) {
		return nil, fmt.Errorf("build maglev table: size %d is not a prime; choose one, such as 65537", size)
	}
	order := make([]uint32, len(backends))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return strings.Compare(backends[a].ID, backends[b].ID)
	})
	t := &Table{size: size, backends: len(backends), members: make([]member, 0, len(backends))}
	for i, index := range order {
		b := &backends[index]
		if i > 0 && backends[order[i-1]].ID == b.ID {
			return nil, fmt.Errorf("build maglev table: backend %q is there twice; give each backend an ID of its own", b.ID)
		}
		if b.Weight > 0 {
			offset, skip := permutation(size, b.ID)
			t.members = append(t.members, member{index: index, weight: b.Weight, next: offset, skip: skip})
		}
	}
	return t, nil
}

// Owners computes the table: the index into the backends of each slot's owner, or None in
// every slot if no backend has weight. It takes time in proportion to size * log(size).
func (t *Table) Owners() []uint32 { return assemble(t.size, slices.Clone(t.members)) }

// Shares counts the slots of each backend, without computing the table.
func (t *Table) Shares() []uint32 {
	shares := make([]uint32, t.backends)
	if len(t.members) > 0 {
		for i, quota := range quotas(t.size, t.members) {
			shares[t.members[i].index] = quota
		}
	}
	return shares
}

// member is a backend of non-zero weight.
type member struct {
	// index is what goes into the slots that it owns.
	index  uint32
	weight uint32
	// next is the slot that the member tries next, the permutation's offset at
	// first; skip is how far the one after it lies. next is less than the
	// table's size, skip too and not 0.
	next, skip uint32
}

// assemble builds the table of the given members. Who comes first in members
// comes first where two have an equal claim. It uses members' next up.
func assemble(size uint32, members []member) []uint32 {
	slots := make([]uint32, size)
	if len(members) == 0 {
		for i := range slots {
			slots[i] = None
		}
		return slots
	}
	claim(slots, members, schedule(members, quotas(size, members)))
	return slots
}

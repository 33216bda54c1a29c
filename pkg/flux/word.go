// Package flux holds the rules by which connections survive changes of a pool:
// what a slot remembers when its owner changes, where a packet of a slot in flux
// goes, and when a slot has settled again. It is pure; the packet path has the
// same rules in C (bpf/flow.h), and tests run both on the same input.
//
// The invariant behind every rule: a flow that is not in the flow table began
// while its slot was settled on its prior owner.
package flux

// Word is a slot as the packet path reads it: owner in bits 0 to 14, the in-flux
// flag in bit 15, the prior owner in bits 16 to 30. Owners are the numbers of
// backends within their pool; those below [First] are nobody.
type Word uint32

// First is the lowest number of a backend; lower ones say that a slot has no
// backend, and what then becomes of packets.
const First = 2

const (
	ownerMask  = 1<<15 - 1
	fluxBit    = 1 << 15
	priorShift = 16
)

// Settled is the word of a slot that needs no flow state.
func Settled(owner uint32) Word { return Word(owner | owner<<priorShift) }

// Owner is whom new flows of the slot go to.
func (w Word) Owner() uint32 { return uint32(w) & ownerMask }

// Prior is who owned the slot when it was last settled.
func (w Word) Prior() uint32 { return uint32(w) >> priorShift & ownerMask }

// InFlux reports whether packets of the slot consult the flow table.
func (w Word) InFlux() bool { return w&fluxBit != 0 }

// Move gives the slot another owner. It is in flux from then on, and keeps its
// prior through any number of moves, also back to where it was. A settled slot
// that nobody owned has no flows to lose, and settles on its first owner at once.
func (w Word) Move(owner uint32) Word {
	switch {
	case owner == w.Owner():
		return w
	case !w.InFlux() && w.Owner() < First:
		return Settled(owner)
	}
	return Word(owner) | fluxBit | Word(w.Prior())<<priorShift
}

// Settle makes the owner the prior and ends the flux.
func (w Word) Settle() Word { return Settled(w.Owner()) }

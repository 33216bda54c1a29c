package flux

import "sync/atomic"

// Table is the slots of one pool with what it takes to settle them.
type Table struct {
	words []Word
	// since and moved say when each slot went in flux and when its owner last
	// changed; nil while no slot is in flux.
	since, moved []Tick
	inFlux       int
	// lost says when the flow table last lost a live entry that only told that
	// its flow was alive; lossy whether it ever did.
	lost  Tick
	lossy bool
	// named counts by number how many slots name a backend as owner or prior.
	named []int32
}

// NewTable is a table of settled slots that nobody owns.
func NewTable(slots uint32) *Table {
	return Adopt(make([]Word, slots), 0)
}

// Adopt is a table over words that exist, such as those of a former run in memory
// that is shared with the packet path. The Table writes them one by one, each
// atomically. Slots in flux count as in flux since now: when they went is not known.
func Adopt(words []Word, now Tick) *Table {
	t := &Table{words: words}
	for i, w := range words {
		t.count(w.Owner(), 1)
		t.count(w.Prior(), 1)
		if w.InFlux() {
			t.flux(uint32(i), now)
		}
	}
	return t
}

// Words are the slots as the packet path is to see them. The caller must not
// change them.
func (t *Table) Words() []Word { return t.words }

// InFlux counts the slots in flux.
func (t *Table) InFlux() int { return t.inFlux }

// Names reports whether a slot has the backend as owner or prior.
func (t *Table) Names(backend uint32) bool {
	return int(backend) < len(t.named) && t.named[backend] > 0
}

// Move gives a slot another owner and reports whether its word changed.
func (t *Table) Move(slot, owner uint32, now Tick) bool {
	if t.words[slot].Owner() == owner { // most slots: this much is inlined
		return false
	}
	t.move(slot, owner, now)
	return true
}

func (t *Table) move(slot, owner uint32, now Tick) {
	before := t.words[slot]
	after := before.Move(owner)
	t.write(slot, after)
	if after.InFlux() {
		if !before.InFlux() {
			t.flux(slot, now)
		}
		t.moved[slot] = now
	}
}

func (t *Table) flux(slot uint32, now Tick) {
	if t.since == nil {
		t.since, t.moved = make([]Tick, len(t.words)), make([]Tick, len(t.words))
	}
	t.since[slot], t.moved[slot] = now, now
	t.inFlux++
}

func (t *Table) write(slot uint32, w Word) {
	before := t.words[slot]
	t.count(before.Owner(), -1)
	t.count(before.Prior(), -1)
	t.count(w.Owner(), 1)
	t.count(w.Prior(), 1)
	atomic.StoreUint32((*uint32)(&t.words[slot]), uint32(w))
}

func (t *Table) count(backend uint32, by int32) {
	for int(backend) >= len(t.named) {
		t.named = append(t.named, 0)
	}
	t.named[backend] += by
}

// Lost says that the flow table had to give up a live entry. Which flow it was of
// is not known, so every slot waits for a whole idle time again: a live flow shows
// itself within it.
func (t *Table) Lost(now Tick) { t.lost, t.lossy = now, true }

// Reset leaves a slot to nobody, settled.
func (t *Table) Reset(slot uint32) {
	if t.words[slot].InFlux() {
		t.inFlux--
	}
	t.write(slot, Settled(0))
}

// Settle settles the slots that may, and returns them. A slot may settle if the
// flow table holds no live entry of it whose backend is not its owner, once it has
// been in flux for longer than the idle time, so that every live flow has shown
// itself.
//
// held is what a sweep found that began at a tick: whether a slot has such an
// entry. A sweep looks at each entry once, and the first ones as soon as it
// begins: the idle time must have passed by then, and a slot that has moved since
// then waits for the next sweep.
func (t *Table) Settle(began, now, idle Tick, held func(slot uint32) bool) []uint32 {
	var settled []uint32
	sweep := Age(now, began)
	if t.inFlux == 0 || t.lossy && Age(now, t.lost) <= sweep+idle {
		return nil
	}
	for i, w := range t.words {
		slot := uint32(i)
		if !w.InFlux() || Age(now, t.since[i]) <= sweep+idle || Age(now, t.moved[i]) <= sweep || held(slot) {
			continue
		}
		t.write(slot, w.Settle())
		t.inFlux--
		settled = append(settled, slot)
	}
	if t.inFlux == 0 {
		t.since, t.moved = nil, nil
	}
	return settled
}

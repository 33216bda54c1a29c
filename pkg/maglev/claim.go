package maglev

// claim gives each turn's member the first slot of its permutation that nobody
// has taken yet: Populate of the paper (pseudocode 1), with turns in place of
// its loop over all backends. It computes permutations as it walks them.
//
// A walk takes size/n steps on average to meet one of n free slots, and looking
// at every free slot n, if dearer ones. So the last slots, on which most steps
// of all walks would be spent, are found the other way. The result is the same.
func claim(slots []uint32, members []member, turns []uint32) {
	last := 0
	for 4*last*last < len(slots) {
		last++
	}
	first := len(slots) - last
	free := walk(slots, members, turns, first)
	pick(slots, members, turns, first, free)
}

// walk follows the permutation of each turn's member to the first free slot, in the first n
// turns. It returns the slots that are free in the end.
func walk(slots []uint32, members []member, turns []uint32, n int) []uint32 {
	size := uint64(len(slots))
	// One bit for each slot stays in the processor's first cache where the
	// table would not.
	taken := make([]uint64, size/64+1)
	for left := n; left > 0; left -= len(turns) {
		for _, turn := range turns[:min(left, len(turns))] {
			m := &members[turn]
			slot := m.firstFree(taken, size)
			taken[slot/64] |= 1 << (slot % 64)
			slots[slot] = m.index
			// The member's next turn will find this slot taken and step on.
			m.next = uint32(slot)
		}
	}
	free := make([]uint32, 0, len(slots)-n)
	for slot := range size {
		if taken[slot/64]>>(slot%64)&1 == 0 {
			free = append(free, uint32(slot))
		}
	}
	return free
}

// firstFree follows the permutation to the first slot that is not taken. By itself, it
// keeps what it needs in registers.
func (m *member) firstFree(taken []uint64, size uint64) uint64 {
	slot, back := uint64(m.next), size-uint64(m.skip)
	for taken[slot/64]>>(slot%64)&1 != 0 {
		// (slot + skip) modulo size without a branch, which the processor
		// would too often guess wrong: if it falls below 0, wrap around.
		slot -= back
		slot += size & -(slot >> 63)
	}
	return slot
}

// pick gives the member of each turn from the nth on the one of the free slots, as many as
// these turns, that its permutation visits first. It uses free up.
func pick(slots []uint32, members []member, turns []uint32, n int, free []uint32) {
	size := uint64(len(slots))
	for turn := n; len(free) > 0; turn++ {
		m := &members[turns[turn%len(turns)]]
		// A slot lies (slot - next) / skip steps ahead, modulo size. No free
		// slot lies behind: the member would have claimed it.
		perSkip := inverse(uint64(m.skip), size)
		nearest, fewest := 0, size
		for i, slot := range free {
			distance := (uint64(slot) + size - uint64(m.next)) % size
			if steps := distance * perSkip % size; steps < fewest {
				nearest, fewest = i, steps
			}
		}
		slots[free[nearest]] = m.index
		free[nearest] = free[len(free)-1]
		free = free[:len(free)-1]
	}
}

// inverse returns 1/x modulo size, a prime greater than x, which is not 0: by
// Fermat's little theorem, x to the power of size-2.
func inverse(x, size uint64) uint64 {
	power := uint64(1)
	for exponent := size - 2; exponent > 0; exponent /= 2 {
		if exponent%2 == 1 {
			power = power * x % size
		}
		x = x * x % size
	}
	return power
}

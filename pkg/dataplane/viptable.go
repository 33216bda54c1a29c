package dataplane

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// vipTable is a filled table, and the hash that gives every key an entry of its own; see
// bpf/vip.h.
type vipTable struct {
	// entries are empty where their endpoint is 0.
	entries    []lbVipEntry
	multiplier [3]uint64
	// The hash begins with groupBits of the group and goes on with entryBits.
	groupBits, entryBits int
	// displacements say for each group by how many entries its keys lie further on;
	// there are none if the hash alone does.
	displacements []uint16
	// wide: a VIP takes any port, or a range.
	wide bool
	// replies: there are keys of backends' answers.
	replies bool
	// guarded: some address has a guard.
	guarded bool
}

// Of n keys in a table of m entries, a random hash puts two into one about n²/2m times. So the
// hash alone does for about 100 keys in undisplacedEntries (64 kB), of which it finds one in
// a few tries. For more keys the table would grow with their square and leave the caches:
// they are displaced.
const undisplacedEntries = 2048

// fullest is how many entries of a hundred are taken in a table with displacements, at
// most. The fuller, the longer is the search for them.
const fullest = 75

// entriesPerGroup is how many entries there are for each displacement: a group has four to
// six keys, and all displacements are in the first cache.
const entriesPerGroup = 8

// triesPerSize is how many hashes are tried before the table doubles.
const triesPerSize = 64

// buildVIPTable finds a table of at most so many entries in which no two keys have the same.
func buildVIPTable(keys []lbVipEntry, most uint32, random *rand.Rand) (*vipTable, error) {
	t := describe(keys)
	for t.entryBits = max(1, bits.Len(uint(len(keys)))); 1<<t.entryBits <= min(most, undisplacedEntries); t.entryBits++ {
		if t.search(keys, random, t.fits) {
			return t, nil
		}
	}
	needed := max(2*entriesPerGroup, len(keys)*100/fullest+1)
	for t.entryBits = bits.Len(uint(needed - 1)); 1<<t.entryBits <= most; t.entryBits++ {
		t.groupBits = t.entryBits - bits.TrailingZeros(entriesPerGroup)
		if t.search(keys, random, t.displace) {
			return t, nil
		}
	}
	return nil, fmt.Errorf("found no table of %d entries for %d VIP keys; raise limits.endpoints in the configuration", most, len(keys))
}

// describe begins a table with what is to be known of its keys.
func describe(keys []lbVipEntry) *vipTable {
	t := &vipTable{}
	for i := range keys {
		e := keys[i].Endpoint &^ endpointReply
		t.replies = t.replies || e != keys[i].Endpoint
		if e == endpointAddress && keys[i].Flags&uint16(lbVipFlagVIP_GUARDED) != 0 {
			t.guarded = true
		}
		if e != endpointAddress && e < endpointFragment && e&0xffff == 0 {
			t.wide = true
		}
	}
	return t
}

// search tries hashes until one places all keys in a table of this size, and fills it.
func (t *vipTable) search(keys []lbVipEntry, random *rand.Rand, place func([]lbVipEntry) bool) bool {
	for range triesPerSize {
		t.multiplier = [3]uint64{random.Uint64() | 1, random.Uint64() | 1, random.Uint64() | 1}
		if place(keys) {
			t.fill(keys)
			return true
		}
	}
	return false
}

// fits reports whether every key has an entry of its own.
func (t *vipTable) fits(keys []lbVipEntry) bool {
	taken := make([]bool, 1<<t.entryBits)
	for i := range keys {
		at := t.entry(&keys[i])
		if taken[at] {
			return false
		}
		taken[at] = true
	}
	return true
}

// displace finds a displacement for each group so that every key has an entry of its own,
// first for those with most keys, and reports whether there is one for all.
func (t *vipTable) displace(keys []lbVipEntry) bool {
	groups := make([][]uint32, 1<<t.groupBits)
	for i := range keys {
		at := t.position(&keys[i])
		group := at >> t.entryBits
		groups[group] = append(groups[group], at)
	}
	order := make([]int, len(groups))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(groups[b]), len(groups[a])) })
	taken := make([]bool, 1<<t.entryBits)
	t.displacements = make([]uint16, len(groups))
	for _, group := range order {
		d, found := takeRoom(groups[group], taken)
		if !found {
			return false
		}
		t.displacements[group] = d
	}
	return true
}

// takeRoom finds the least displacement with which the entries at some positions are free,
// and takes them.
func takeRoom(positions []uint32, taken []bool) (displacement uint16, found bool) {
	mask := uint32(len(taken) - 1)
	for d := range uint32(len(taken)) {
		placed := 0
		for _, at := range positions {
			at = (at + d) & mask
			if taken[at] {
				break
			}
			taken[at] = true
			placed++
		}
		if placed == len(positions) {
			return uint16(d), true
		}
		for _, at := range positions[:placed] {
			taken[(at+d)&mask] = false
		}
	}
	return 0, false
}

// fill places every key in a table in which they fit.
func (t *vipTable) fill(keys []lbVipEntry) {
	t.entries = make([]lbVipEntry, 1<<t.entryBits)
	for i := range keys {
		t.entries[t.entry(&keys[i])] = keys[i]
	}
}

// position is what the hash says: the group and, in the lower bits, the entry.
func (t *vipTable) position(key *lbVipEntry) uint32 {
	hash := key.Address.Word[0]*t.multiplier[0] + key.Address.Word[1]*t.multiplier[1] + uint64(key.Endpoint)*t.multiplier[2]
	return uint32(hash >> (64 - t.groupBits - t.entryBits))
}

// entry is the twin of entry_of in bpf/vip.h.
func (t *vipTable) entry(key *lbVipEntry) uint32 {
	at := t.position(key)
	if t.displacements != nil {
		at += uint32(t.displacements[at>>t.entryBits])
	}
	return at & (1<<t.entryBits - 1)
}

// record is what packets know of the table if its entries and displacements begin there.
func (t *vipTable) record(base uint32, firstGroup uint16) lbVipTable {
	r := lbVipTable{
		Multiplier: t.multiplier, Base: base, Mask: 1<<t.entryBits - 1, Shift: uint8(64 - t.groupBits - t.entryBits),
		Wide: truth(t.wide), Replies: truth(t.replies), Guarded: truth(t.guarded),
	}
	if t.displacements != nil {
		r.GroupShift, r.FirstGroup = uint8(t.entryBits), firstGroup
	}
	return r
}

func truth(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

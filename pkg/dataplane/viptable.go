package dataplane

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// vipTable is a filled table: buckets of two entries, and the hash under which
// no bucket has more.
type vipTable struct {
	buckets    []lbVipBucket
	multiplier [3]uint64
	shift      uint32
	// wide: a VIP takes any port, or a range.
	wide bool
	// replies: there are keys of backends' answers.
	replies bool
	// guarded: some address has a guard.
	guarded bool
}

// bucketsPerEntry sizes the map. Of n keys in m buckets of two, a random hash puts
// three into one about n³/6m² times: with 16 buckets for each of 20,000 keys, the most
// that there may be, about every hundredth hash puts them into none.
const bucketsPerEntry = 16

// triesPerSize is how many hashes are tried before the table doubles, and triesAtMost
// how many at the largest size.
const (
	triesPerSize = 64
	triesAtMost  = 6400
)

// buildVIPTable finds the smallest table, of at most maxBuckets, in which no bucket overflows.
func buildVIPTable(entries []lbVipEntry, maxBuckets uint32, random *rand.Rand) (*vipTable, error) {
	t := &vipTable{}
	for i := range entries {
		e := entries[i].Endpoint &^ endpointReply
		t.replies = t.replies || e != entries[i].Endpoint
		if e == endpointAddress && entries[i].Flags&uint16(lbVipFlagVIP_GUARDED) != 0 {
			t.guarded = true
		}
		if e != endpointAddress && e < endpointFragment && e&0xffff == 0 {
			t.wide = true
		}
	}
	log := max(1, bits.Len32(uint32(len(entries))))
	for ; log < 32 && uint32(1)<<log <= maxBuckets; log++ {
		tries := triesPerSize
		if uint32(1)<<(log+1) > maxBuckets {
			tries = triesAtMost
		}
		t.shift = uint32(64 - log)
		load := make([]uint8, 1<<log)
		for range tries {
			t.multiplier = [3]uint64{random.Uint64() | 1, random.Uint64() | 1, random.Uint64() | 1}
			if t.fits(entries, load) {
				t.fill(entries, 1<<log)
				return t, nil
			}
		}
	}
	return nil, fmt.Errorf("found no table of %d buckets for %d VIP keys; raise limits.endpoints in the configuration", maxBuckets, len(entries))
}

// fits reports whether no bucket overflows; load counts and is overwritten.
func (t *vipTable) fits(entries []lbVipEntry, load []uint8) bool {
	clear(load)
	for i := range entries {
		b := t.bucket(&entries[i])
		if load[b]++; load[b] > 2 {
			return false
		}
	}
	return true
}

// fill places every entry in a table in which they fit.
func (t *vipTable) fill(entries []lbVipEntry, buckets int) {
	t.buckets = make([]lbVipBucket, buckets)
	for i := range entries {
		b := &t.buckets[t.bucket(&entries[i])]
		if b.Entry[0].Endpoint != 0 {
			b.Entry[1] = entries[i]
		} else {
			b.Entry[0] = entries[i]
		}
	}
}

func (t *vipTable) bucket(e *lbVipEntry) uint32 {
	hash := e.Address.Word[0]*t.multiplier[0] + e.Address.Word[1]*t.multiplier[1] + uint64(e.Endpoint)*t.multiplier[2]
	return uint32(hash >> t.shift)
}

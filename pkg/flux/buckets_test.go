package flux

// buckets is a flow table as bpf/flow.h has it: buckets of four entries, and of those
// at home and next door the one of lowest rank gives way.
type buckets struct {
	bucket [][bucketSize]place
	// evicted hears of live entries that gave way, unremembered of flows for
	// which no entry did.
	evicted      func(key uint64, e Entry, r Rank)
	unremembered func(key uint64, e Entry)
}

const bucketSize = 4

type place struct {
	key uint64 // 0: empty
	Entry
}

// newBuckets makes a table of so many buckets, a power of two.
func newBuckets(n int) *buckets { return &buckets{bucket: make([][bucketSize]place, n)} }

func keyOf(hash uint64) uint64 { return hash | 2 }

// places are those where the entry of a key may be.
func (b *buckets) places(key uint64) []*place {
	mask := uint64(len(b.bucket) - 1)
	home := key >> 2 & mask
	var places []*place
	for _, at := range []uint64{home, (home ^ 1) & mask} {
		for i := range b.bucket[at] {
			places = append(places, &b.bucket[at][i])
		}
	}
	return places
}

func (b *buckets) find(key uint64) *Entry {
	for _, p := range b.places(key) {
		if p.key == key {
			return &p.Entry
		}
	}
	return nil
}

// mayReplace is the highest rank that gives way to an entry.
func mayReplace(e Entry) Rank {
	switch {
	case !e.Essential:
		return RankPrior
	case !e.Confirmed:
		return RankEmbryonic
	}
	return RankConnection
}

const rankEmpty = RankExpired - 1

func (b *buckets) remember(key uint64, e Entry, now, idle Tick) {
	var victim *place
	lowest, oldest := RankConnection+1, Tick(0)
	for _, p := range b.places(key) {
		rank := rankEmpty
		if p.key != 0 {
			rank = RankOf(p.Entry, now, idle)
		}
		if age := Age(now, p.Seen); rank < lowest || rank == lowest && age > oldest {
			victim, lowest, oldest = p, rank, age
		}
	}
	if lowest > mayReplace(e) {
		b.unremembered(key, e)
		return
	}
	if lowest > RankExpired {
		b.evicted(victim.key, victim.Entry, lowest)
	}
	*victim = place{key, e}
}

// entries counts those that there are.
func (b *buckets) entries() int {
	n := 0
	for i := range b.bucket {
		for _, p := range b.bucket[i] {
			if p.key != 0 {
				n++
			}
		}
	}
	return n
}

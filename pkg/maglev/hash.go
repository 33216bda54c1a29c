package maglev

// permutation returns where the walk of a backend through a table begins and
// how far each of its steps goes: offset is 0 to size-1, skip 1 to size-1
// (section 3.4 of the paper). Size is a prime.
func permutation(size uint32, id string) (offset, skip uint32) {
	h := hash(id)
	offset = uint32(h % uint64(size))
	skip = uint32(mix(h+goldenRatio)%uint64(size-1)) + 1
	return offset, skip
}

const (
	// fnvBasis and fnvPrime are those of 64-bit FNV-1a.
	fnvBasis = 0xcbf29ce484222325
	fnvPrime = 0x00000100000001b3
	// goldenRatio is 2^64 divided by the golden ratio, SplitMix64's increment.
	goldenRatio = 0x9e3779b97f4a7c15
)

// hash is 64-bit FNV-1a of the bytes of id, then mixed, for FNV leaves the last
// bytes of an ID, those in which addresses of one network differ, in few bits.
// It resists no adversary and need not: operators choose backends.
func hash(id string) uint64 {
	h := uint64(fnvBasis)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * fnvPrime
	}
	return mix(h)
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, with
// Stafford's variant 13 of the constants): a bijection in which every bit
// depends on all.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

package dataplane

import (
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// endpointAddress is the endpoint that stands for an address itself; see bpf/packet.h.
const endpointAddress = 255 << 16

// endpoint is what a VIP key says besides the address; see bpf/packet.h. Port in
// host byte order, 0 for any.
func endpoint(protocol model.Protocol, port uint16) uint32 {
	return uint32(protocol)<<16 | uint32(bits.ReverseBytes16(port))
}

// vipTable is a filled table: buckets of two entries, and the hash under which
// no bucket has more.
type vipTable struct {
	buckets    []lbVipBucket
	multiplier [3]uint64
	shift      uint32
	anyPort    bool
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
		if entries[i].Endpoint>>16 != endpointAddress>>16 && entries[i].Endpoint&0xffff == 0 {
			t.anyPort = true
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
	return nil, fmt.Errorf("found no table of %d buckets for %d VIP keys; raise limits.vips in the configuration", maxBuckets, len(entries))
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

// vipEntries are the keys of the table: one for each VIP, one for each of their addresses.
func vipEntries(vips map[string]*vip) []lbVipEntry {
	entries := make([]lbVipEntry, 0, 2*len(vips))
	known := make(map[netip.Addr]bool, len(vips))
	for _, name := range slices.Sorted(maps.Keys(vips)) {
		v := vips[name]
		entries = append(entries, v.entry())
		if !known[v.Address] {
			known[v.Address] = true
			entries = append(entries, lbVipEntry{Address: address(v.Address), Endpoint: endpointAddress})
		}
	}
	return entries
}

func (v *vip) entry() lbVipEntry {
	e := lbVipEntry{
		Address:   address(v.Address),
		Endpoint:  endpoint(v.Protocol, v.Port),
		Vip:       uint16(v.id),
		Pool:      uint16(v.place.id),
		PriorPool: uint16(v.place.id),
		Mode:      uint8(modeOf(v.Mode)),
	}
	if v.prior != nil {
		e.PriorPool = uint16(v.prior.id)
		e.Flags |= uint8(lbVipFlagVIP_IN_FLUX)
	}
	if v.tracks {
		e.Flags |= uint8(lbVipFlagVIP_TRACKS)
	}
	if v.Protocol == model.TCP && v.Tracking != model.TrackingNone {
		e.Flags |= uint8(lbVipFlagVIP_OPENERS)
	}
	return e
}

func modeOf(m model.Mode) lbMode {
	switch m {
	case model.ModeDSRL2:
		return lbModeMODE_DSR_L2
	case model.ModeDSRIPIP:
		return lbModeMODE_DSR_IPIP
	}
	return lbModeMODE_NONE
}

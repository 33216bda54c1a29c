package dataplane

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The endpoints that stand for an address itself and for fragments of a protocol;
// see bpf/packet.h.
const (
	endpointAddress  = 255 << 16
	endpointFragment = 1 << 24
)

// endpoint is what a VIP key says besides the address; see bpf/packet.h. Port in
// host byte order, 0 for any.
func endpoint(protocol model.Protocol, port uint16) uint32 {
	return uint32(protocol)<<16 | uint32(bits.ReverseBytes16(port))
}

// directory is the VIPs as packets find them: keys, ranges of ports and terms.
// Entries name terms and ranges by their index among these.
type directory struct {
	entries []lbVipEntry
	ranges  []lbPortRange
	// terms by the number of the VIP.
	terms map[uint32]lbVipTerms
	// endpoints are those of nat VIPs, for answers; replies counts the keys of these.
	endpoints []lbNatEndpoint
	replies   int
}

func (s *directory) equal(other *directory) bool {
	return slices.Equal(s.entries, other.entries) && slices.Equal(s.ranges, other.ranges) && maps.Equal(s.terms, other.terms) &&
		slices.Equal(s.endpoints, other.endpoints)
}

// wideKey is an address and protocol on which VIPs take ranges of ports, or any.
type wideKey struct {
	address  netip.Addr
	protocol model.Protocol
}

// wideClaim is a range of a VIP's.
type wideClaim struct {
	ports model.PortRange
	entry lbVipEntry
}

// buildDirectory lays VIPs out for packets: a key for each port, one for all ranges
// of an address and protocol, one for each address, and one for fragments where a
// VIP takes them; and of nat VIPs, the keys of their backends' answers. node are the
// sources that hold for all, other the guard of addresses whose VIPs differ, owners the
// backends of a place.
func buildDirectory(vips map[string]*vip, node model.NodeSources, other uint32, owners func(*place) map[model.BackendID]uint32) *directory {
	s := &directory{terms: map[uint32]lbVipTerms{}}
	addresses := map[netip.Addr]bool{}
	guards := addressGuards(vips)
	wide := map[wideKey][]wideClaim{}
	hashed := map[wideKey]bool{}
	var translating []*vip
	for _, name := range slices.Sorted(maps.Keys(vips)) {
		v := vips[name]
		if v.hasTerms() {
			s.terms[v.id] = v.terms()
		}
		if v.Mode == model.ModeNAT {
			translating = append(translating, v)
		}
		entry := v.entry()
		for _, e := range v.Endpoints {
			key := wideKey{e.Address, v.Protocol}
			if e.Ports.Single() {
				s.add(e.Address, endpoint(v.Protocol, e.Ports.First), entry)
			} else {
				wide[key] = append(wide[key], wideClaim{e.Ports, entry})
			}
			if !addresses[e.Address] {
				addresses[e.Address] = true
				s.add(e.Address, endpointAddress, guards[e.Address].entry(node, other))
			}
			if v.Fragments == model.FragmentsHash && !hashed[key] {
				hashed[key] = true
				s.add(e.Address, endpointFragment|endpoint(v.Protocol, 0), entry)
			}
		}
	}
	s.addWide(wide, 0)
	s.addReplies(translating, owners)
	return s
}

func (s *directory) add(a netip.Addr, endpoint uint32, entry lbVipEntry) {
	entry.Address, entry.Endpoint = address(a), endpoint
	s.entries = append(s.entries, entry)
}

// addWide adds the keys of ranges, with what else they have. A VIP that takes any port,
// and has the key for itself, needs none.
func (s *directory) addWide(wide map[wideKey][]wideClaim, also uint32) {
	keys := slices.SortedFunc(maps.Keys(wide), func(a, b wideKey) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.protocol, b.protocol))
	})
	for _, key := range keys {
		claims := wide[key]
		at := also | endpoint(key.protocol, 0)
		if len(claims) == 1 && claims[0].ports.Any() {
			s.add(key.address, at, claims[0].entry)
			continue
		}
		ranges := divide(claims)
		s.add(key.address, at, lbVipEntry{Vip: uint16(len(ranges)), Terms: uint16(len(s.ranges)), Flags: uint16(lbVipFlagVIP_RANGES)})
		s.ranges = append(s.ranges, ranges...)
	}
}

// divide puts ranges in order, and the one that takes any port into the gaps.
func divide(claims []wideClaim) []lbPortRange {
	var rest *lbVipEntry
	var out []lbPortRange
	slices.SortFunc(claims, func(a, b wideClaim) int { return cmp.Compare(a.ports.First, b.ports.First) })
	next := 0
	fill := func(end int) {
		if rest != nil && next < end {
			out = append(out, lbPortRange{Vip: *rest, First: uint16(next), Last: uint16(end - 1)})
		}
	}
	for i := range claims {
		if claims[i].ports.Any() {
			rest = &claims[i].entry
			continue
		}
		fill(int(claims[i].ports.First))
		out = append(out, lbPortRange{Vip: claims[i].entry, First: claims[i].ports.First, Last: claims[i].ports.Last})
		next = int(claims[i].ports.Last) + 1
	}
	fill(math.MaxUint16 + 1)
	return out
}

// entry is what all keys of a VIP say.
func (v *vip) entry() lbVipEntry {
	e := lbVipEntry{
		Vip:       uint16(v.id),
		Pool:      uint16(v.place.id),
		PriorPool: uint16(v.place.id),
		Terms:     uint16(v.id),
		Mode:      uint8(modeOf(v.Mode)),
	}
	flag := func(on bool, f lbVipFlag) {
		if on {
			e.Flags |= uint16(f)
		}
	}
	if v.prior != nil {
		e.PriorPool = uint16(v.prior.id)
	}
	flag(v.prior != nil, lbVipFlagVIP_IN_FLUX)
	flag(v.changesAffinity(), lbVipFlagVIP_CHANGES_AFFINITY)
	// What translates sources remembers flows by itself.
	remembers := v.Mode == model.ModeFullNAT
	flag(v.tracks && !remembers, lbVipFlagVIP_TRACKS)
	flag(v.HasOpeners() && v.Tracking != model.TrackingNone && !remembers, lbVipFlagVIP_OPENERS)
	flag(affine(v.Affinity), lbVipFlagVIP_AFFINE)
	flag(v.MSS != 0, lbVipFlagVIP_CLAMPS_MSS)
	flag(v.QUIC, lbVipFlagVIP_QUIC)
	flag(v.Fragments == model.FragmentsHash, lbVipFlagVIP_HASHES_FRAGMENTS)
	flag(v.splices(), lbVipFlagVIP_SYN_COOKIES)
	flag(v.guarded, lbVipFlagVIP_GUARDED)
	return e
}

func modeOf(m model.Mode) lbMode {
	switch m {
	case model.ModeDSRL2:
		return lbModeMODE_DSR_L2
	case model.ModeDSRIPIP:
		return lbModeMODE_DSR_IPIP
	case model.ModeDSRGUE:
		return lbModeMODE_DSR_GUE
	case model.ModeNAT:
		return lbModeMODE_NAT
	case model.ModeFullNAT:
		return lbModeMODE_FULLNAT
	}
	return lbModeMODE_NONE
}

// hasTerms reports whether packets read the VIP's terms.
func (v *vip) hasTerms() bool {
	return v.QUIC || v.MSS != 0 || affine(v.Affinity) || v.changesAffinity()
}

// terms are what few VIPs have.
func (v *vip) terms() lbVipTerms {
	t := lbVipTerms{Mss: v.MSS, ServerIds: v.serverIDs, Affinity: affinityRecord(v.Name, v.Affinity)}
	if v.changesAffinity() {
		t.PriorAffinity = affinityRecord(v.Name, v.priorAffinity)
	}
	return t
}

// affine reports whether an affinity keeps flows together.
func affine(a model.Affinity) bool {
	return a.Scope == model.AffinitySource || a.Scope == model.AffinityPool
}

// changesAffinity reports whether flows may be where another affinity led them.
func (v *vip) changesAffinity() bool {
	return v.prior != nil && affinityRecord(v.Name, v.priorAffinity) != affinityRecord(v.Name, v.Affinity)
}

// affinityRecord is an affinity for packets; all zero if it keeps nothing together.
// The name of the VIP sets it apart, on every balancer of the fleet alike.
func affinityRecord(name string, a model.Affinity) lbAffinity {
	if !affine(a) {
		return lbAffinity{}
	}
	var r lbAffinity
	if a.Scope == model.AffinitySource {
		h := fnv.New32a()
		h.Write([]byte(name))
		r.Salt = h.Sum32()
	}
	var mask [16]byte
	for i := range mask {
		mask[i] = ^uint8(0xff >> min(max(int(a.IPv6Prefix)-8*i, 0), 8))
	}
	r.MaskIpv6.Word = [2]uint64{binary.LittleEndian.Uint64(mask[:8]), binary.LittleEndian.Uint64(mask[8:])}
	r.MaskIpv4 = bits.ReverseBytes32(^uint32(0) << (32 - a.IPv4Prefix))
	return r
}

// countEndpoints refuses more endpoints than the maps were made for.
func countEndpoints(vips []model.VIP, limit uint32) error {
	n := 0
	for i := range vips {
		n += len(vips[i].Endpoints)
	}
	if n > int(limit) {
		return fmt.Errorf("the VIPs have %d endpoints and there is room for %d; raise limits.endpoints in the configuration", n, limit)
	}
	return nil
}

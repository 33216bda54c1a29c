package dataplane

import (
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// minSplices is how small the kernel's LRU map may be without forgetting at random.
const minSplices = 1024

func sizeSplices(spec *ebpf.CollectionSpec, limits Limits) {
	spec.Maps[lbMapSplices].MaxEntries = max(limits.Splices, minSplices)
	spec.Maps[lbMapSynGiven].MaxEntries = limits.VIPs
}

// hasGivenCookies reports whether a VIP has ever answered SYNs itself.
func (p *Plane) hasGivenCookies(id uint32) bool {
	return atomic.LoadUint64(&p.synGiven.elements[id]) != 0
}

// splices reports whether packets of a VIP may be of connections that began with a
// cookie: also when it gives none any more.
func (v *vip) splices() bool {
	return v.Protocol == model.TCP && v.Mode.Translates() && (v.SYNCookies != 0 || v.gaveCookies)
}

// carrySplices copies the connections of the former maps that began with a cookie. Of one
// that both have, what the backend has said since counts.
func (p *Plane) carrySplices() error {
	former := p.former[lbMapSplices]
	if former == nil {
		return nil
	}
	var key lbTuple
	var value, known lbSplice
	entries := former.Iterate()
	for entries.Next(&key, &value) {
		if err := p.maps.Splices.Lookup(&key, &known); err == nil && (known.answered() || !value.answered()) {
			continue
		}
		if err := p.maps.Splices.Put(&key, &value); err != nil {
			return fmt.Errorf("connections that began with a SYN cookie: %w", err)
		}
	}
	// Others may come and go meanwhile, and the iteration lose its place: it is a copy
	// of what is there for long.
	return nil
}

func (s *lbSplice) answered() bool {
	return s.State>>spliceFlagsShift&uint64(lbSpliceFlagSPLICE_ANSWERED) != 0
}

// spliceFlagsShift is where flags are in a splice's state; see bpf/splice.h.
const spliceFlagsShift = 48

// carryGiven copies when VIPs last gave cookies.
func (p *Plane) carryGiven() error {
	if p.former[lbMapSynGiven] == nil {
		return nil
	}
	return copyMap(p.synGiven, p.former[lbMapSynGiven])
}

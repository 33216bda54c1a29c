package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Guards are what packets of a VIP must pass. A guard names source lists by numbers,
// which stand for maps of prefixes: another list under a name takes the place of the
// former in one step, so that no packet meets half of it or none.

// sourceList is a list that packets can be held against.
type sourceList struct {
	number uint32
	digest model.SourceDigest
	// nodes are its size, 8 bytes each.
	nodes int
}

// sourceLists are those that the map has, by name.
type sourceLists struct {
	lists map[string]sourceList
	// left are numbers that a former daemon's guards may still name.
	left []uint32
	// spec is that of the maps that lists are.
	spec *ebpf.MapSpec
}

// wantedLists are the lists of a state that something names.
func (p *Plane) wantedLists(state *forwarding.State) (map[string]*model.SourceList, error) {
	wanted := map[string]*model.SourceList{}
	want := func(names ...string) {
		for _, name := range names {
			if name != "" {
				wanted[name] = nil
			}
		}
	}
	want(state.Sources.Deny, state.Sources.Allow, state.Sources.Bogus)
	for i := range state.VIPs {
		want(state.VIPs[i].Sources.Deny, state.VIPs[i].Sources.Allow)
	}
	for i := range state.SourceLists {
		l := &state.SourceLists[i]
		if _, is := wanted[l.Name]; is {
			wanted[l.Name] = l
		}
	}
	for name, l := range wanted {
		if l == nil {
			return nil, fmt.Errorf("there is no source list %q", name)
		}
	}
	if n := uint32(len(wanted)); n > p.limits.SourceLists {
		return nil, fmt.Errorf("%d source lists are in use and there is room for %d; raise limits.source_lists in the configuration", n, p.limits.SourceLists)
	}
	return wanted, nil
}

// sourceListNumbers is the size of the map: 0 is no list, and those of a former daemon
// keep their numbers until nothing names them.
func sourceListNumbers(limits Limits) uint32 { return 1 + 2*max(1, limits.SourceLists) }

// adoptSourceLists notes the numbers that a former daemon's lists have. What they
// hold is not known, so all are filled anew, under others.
func (p *Plane) adoptSourceLists() error {
	for number := uint32(1); number < sourceListNumbers(p.limits); number++ {
		var id uint32
		switch err := p.maps.SourceLists.Lookup(number, &id); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
		case err != nil:
			return fmt.Errorf("source list %d: %w", number, err)
		default:
			p.lists.left = append(p.lists.left, number)
		}
	}
	return nil
}

// fillSourceLists makes the lists that guards are to name what they are to be.
func (p *Plane) fillSourceLists(wanted map[string]*model.SourceList) error {
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		l := wanted[name]
		known, is := p.lists.lists[name]
		if is && known.digest == l.Digest {
			continue
		}
		if !is {
			number, err := p.freeListNumber()
			if err != nil {
				return err
			}
			known.number = number
		}
		nodes := buildSourceList(l.Prefixes)
		if err := p.putSourceList(known.number, nodes); err != nil {
			return fmt.Errorf("source list %q: %w", name, err)
		}
		p.lists.lists[name] = sourceList{known.number, l.Digest, len(nodes)}
	}
	return nil
}

func (p *Plane) freeListNumber() (uint32, error) {
	taken := map[uint32]bool{}
	for _, l := range p.lists.lists {
		taken[l.number] = true
	}
	for _, number := range p.lists.left {
		taken[number] = true
	}
	for number := uint32(1); number < sourceListNumbers(p.limits); number++ {
		if !taken[number] {
			return number, nil
		}
	}
	return 0, errors.New("no number is left for another source list; raise limits.source_lists in the configuration")
}

// putSourceList fills a map of its own with the nodes, and then makes it the list
// of a number. When it returns, no packet is on the former one any more.
func (p *Plane) putSourceList(number uint32, nodes []lbListNode) error {
	// With its types, too: Linux 6.1 takes no other for the same kind of map.
	spec := p.lists.spec.Copy()
	spec.MaxEntries = uint32(len(nodes))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer m.Close()
	mem, err := mapMemory[lbListNode](m)
	if err != nil {
		return err
	}
	copy(mem.elements, nodes)
	if err := mem.close(); err != nil {
		return err
	}
	return p.maps.SourceLists.Put(number, m)
}

// addressGuard is the guard of an address, by a number.
type addressGuard struct {
	number  uint32
	sources model.Sources
	differ  bool
}

// addressGuards are those of all addresses: that of its VIPs, if they all have the same
// sources, else the one that has only what holds for all.
func addressGuards(vips map[string]*vip) map[netip.Addr]addressGuard {
	guards := map[netip.Addr]addressGuard{}
	for _, name := range slices.Sorted(maps.Keys(vips)) {
		v := vips[name]
		for _, e := range v.Endpoints {
			g, is := guards[e.Address]
			if !is {
				g = addressGuard{number: v.id, sources: v.Sources}
			}
			g.differ = g.differ || g.sources != v.Sources
			guards[e.Address] = g
		}
	}
	return guards
}

// entry is what the key of the address says.
func (g addressGuard) entry(node model.NodeSources, other uint32) lbVipEntry {
	if g.differ {
		g.number, g.sources = other, model.Sources{}
	}
	if !guarded(g.sources, node) {
		return lbVipEntry{}
	}
	return lbVipEntry{Vip: uint16(g.number), Flags: uint16(lbVipFlagVIP_GUARDED)}
}

// guardOf is the guard by some sources besides those of the node, and limits.
func (p *Plane) guardOf(own model.Sources, node model.NodeSources, limits model.Limits) lbGuard {
	number := func(name string) uint16 { return uint16(p.lists.lists[name].number) }
	g := lbGuard{
		Deny: number(own.Deny), Allow: number(own.Allow),
		DenyAll: number(node.Deny), AllowAll: number(node.Allow), Bogus: number(node.Bogus),
	}
	if limits.Any() {
		setLimits(&g, limits)
	}
	return g
}

// guarded reports whether sources have anything to say.
func guarded(own model.Sources, node model.NodeSources) bool {
	return own != (model.Sources{}) || node != (model.NodeSources{})
}

// otherGuard is that of addresses whose VIPs have different sources: it has those
// of the node alone.
func otherGuard(limits Limits) uint32 { return limits.VIPs }

// writeGuards writes those that packets are about to be held against, before the VIP
// table says so.
func (p *Plane) writeGuards(next *planned) {
	for _, v := range next.vips {
		if v.guarded {
			p.guards.store(v.id, p.guardOf(v.Sources, next.node, v.Limits))
		}
	}
	p.guards.store(otherGuard(p.limits), p.guardOf(model.Sources{}, next.node, model.Limits{}))
}

// dropGuards takes away, after packets have been told, what guards nothing any more.
func (p *Plane) dropGuards(wanted map[string]*model.SourceList) error {
	for id := range p.limits.VIPs {
		if v := p.vipByID[id]; v == nil || !v.guarded {
			p.guards.store(id, lbGuard{})
		}
	}
	gone := p.lists.left
	for name, l := range p.lists.lists {
		if wanted[name] == nil {
			gone = append(gone, l.number)
			delete(p.lists.lists, name)
		}
	}
	p.lists.left = nil
	if len(gone) == 0 {
		return nil
	}
	// A packet may still be on its way with a number that it has read.
	if err := quiesce(); err != nil {
		return err
	}
	for _, number := range gone {
		if err := p.maps.SourceLists.Delete(number); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("source list %d: %w", number, err)
		}
	}
	return nil
}

// readGuardCounters sums up what the guard of a VIP has done on all CPUs.
func (p *Plane) readGuardCounters(id uint32) (sum lbGuardCounters, err error) {
	var perCPU []lbGuardCounters
	if err := p.maps.GuardCounters.Lookup(id, &perCPU); err != nil {
		return sum, err
	}
	for _, c := range perCPU {
		for i, n := range c.Dropped {
			sum.Dropped[i] += n
		}
		for i, n := range c.Observed {
			sum.Observed[i] += n
		}
		sum.Forgotten += c.Forgotten
	}
	return sum, nil
}

// guardReasons names counts by reasons from a first one on.
func (p *Plane) guardReasons(first lbReason, counts []uint64) []model.Reason {
	reasons := make([]model.Reason, len(counts))
	for i, n := range counts {
		reasons[i] = model.Reason{Name: p.reasons[int(first)+i], Packets: n}
	}
	return reasons
}

// clearGuardCounters zeroes them, and the VIP's buckets, for the next VIP of the number.
func (p *Plane) clearGuardCounters(id uint32) error {
	return errors.Join(p.maps.GuardCounters.Put(id, make([]lbGuardCounters, ebpf.MustPossibleCPU())), p.maps.VipBuckets.Put(id, lbVipBuckets{}))
}

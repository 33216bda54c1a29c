package dataplane

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// numbers hands out every index that the packet path uses.
type numbers struct {
	vips, pools, lines, backends *ranges
}

func newNumbers(limits Limits) numbers {
	first := uint32(lbOwnerOWNER_FIRST)
	return numbers{
		vips:     newRanges("vips", 0, limits.VIPs),
		pools:    newRanges("pools", 0, limits.Pools),
		lines:    newRanges("slots", 0, slotLines(limits)),
		backends: newRanges("backends", first, first+limits.Backends),
	}
}

// clone lets a plan that fails leave no trace.
func (n numbers) clone() numbers {
	return numbers{vips: n.vips.clone(), pools: n.pools.clone(), lines: n.lines.clone(), backends: n.backends.clone()}
}

// place is where a pool lives in the maps. Its record never changes: a pool
// that outgrows its place gets a new one, and its VIPs are switched over.
type place struct {
	pool     string
	id       uint32
	slots    uint32
	lines    run
	backends run
	// table is over the slots in the map.
	table *flux.Table
	// owners are the numbers of backends within the pool, from OWNER_FIRST on.
	// A backend that left the pool keeps its number while a slot or a flow names it.
	owners map[model.BackendID]uint32
	// left says in which epoch the backends left that have.
	left map[model.BackendID]uint64
	// adopted from a former daemon, and nothing applied since.
	adopted bool
	// written is what packets have of the pool here.
	written written
}

// written is what of a pool was last written at its place, whether that became the state
// applied or not. What has not changed is the same by address, as [forwarding.Build]
// promises; the zero value is the same as nothing.
type written struct {
	// backends have their numbers, rooms and records here, by these paths.
	backends []forwarding.Backend
	paths    forwarding.Paths
	// strippedOf are the backends when others were last stripped.
	strippedOf []forwarding.Backend
	// slots say that table, or reset without one, is in the slots.
	slots bool
	table forwarding.Table
	reset bool
}

// numbered reports whether these very backends have their numbers.
func (w *written) numbered(backends []forwarding.Backend) bool { return same(w.backends, backends) }

// resolved reports whether these very backends have their records, by these very paths.
func (w *written) resolved(backends []forwarding.Backend, paths forwarding.Paths) bool {
	return same(w.backends, backends) && w.paths.Same(paths)
}

// stripped reports whether all but these very backends were stripped.
func (w *written) stripped(backends []forwarding.Backend) bool { return same(w.strippedOf, backends) }

// owned reports whether slots have the owners of the pool's table.
func (w *written) owned(pool *forwarding.Pool) bool {
	return w.slots && w.table == pool.Table && (w.table != nil || w.reset == pool.Reset)
}

// same reports whether two slices are one, and not empty.
func same(a, b []forwarding.Backend) bool {
	return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
}

// minPlace is the fewest backends that a place has room for.
const minPlace = 8

func (n *numbers) newPlace(p *forwarding.Pool) (*place, error) {
	id, err := n.pools.take(1)
	if err != nil {
		return nil, err
	}
	lines, err := n.lines.take((p.Slots + slotsPerLine - 1) / slotsPerLine)
	if err != nil {
		return nil, fmt.Errorf("%w (in units of %d slots)", err, slotsPerLine)
	}
	backends, err := n.backends.take(ceilPowerOfTwo(max(minPlace, uint32(len(p.Backends)))))
	if err != nil {
		return nil, err
	}
	at := &place{
		pool: p.Name, id: id.start, slots: p.Slots, lines: lines, backends: backends,
		owners: map[model.BackendID]uint32{}, left: map[model.BackendID]uint64{},
	}
	at.number(p.Backends)
	return at, nil
}

func (n *numbers) release(at *place) {
	n.pools.give(run{at.id, at.id + 1})
	n.lines.give(at.lines)
	n.backends.give(at.backends)
}

// fits reports whether the pool can stay: same table size, and room for the
// backends it has besides those that left and are still named.
func (at *place) fits(p *forwarding.Pool) bool {
	if at.slots != p.Slots {
		return false
	}
	if at.written.numbered(p.Backends) {
		return true
	}
	needed := len(at.owners)
	for _, b := range p.Backends {
		if _, known := at.owners[b.ID]; !known {
			needed++
		}
	}
	return needed <= int(at.backends.length())
}

// numbered returns the numbers of the place with some for all these backends as well.
func (at *place) numbered(backends []forwarding.Backend) map[model.BackendID]uint32 {
	if at.written.numbered(backends) {
		return at.owners
	}
	for _, b := range backends {
		if _, known := at.owners[b.ID]; !known {
			next := *at
			next.owners = maps.Clone(at.owners)
			next.number(backends)
			return next.owners
		}
	}
	return at.owners
}

// number gives each backend without a number the lowest free one.
func (at *place) number(backends []forwarding.Backend) {
	taken := make([]bool, at.backends.length())
	first := uint32(lbOwnerOWNER_FIRST)
	for _, owner := range at.owners {
		taken[owner-first] = true
	}
	next := uint32(0)
	for _, b := range backends {
		if _, known := at.owners[b.ID]; known {
			continue
		}
		for taken[next] {
			next++
		}
		taken[next] = true
		at.owners[b.ID] = first + next
	}
}

// base is what an owner's number is added to for the index of its record.
func (at *place) base() uint32 { return at.backends.start - uint32(lbOwnerOWNER_FIRST) }

func (at *place) record() lbPool {
	return lbPool{SlotBase: at.lines.start * slotsPerLine, Slots: at.slots, BackendBase: at.base()}
}

// backendNumbers are the numbers of the place's backends.
func (at *place) backendNumbers() map[model.BackendID]uint32 { return at.owners }

func sortedIDs(owners map[model.BackendID]uint32) []model.BackendID {
	return slices.SortedFunc(maps.Keys(owners), model.BackendID.Compare)
}

func (at *place) String() string {
	return fmt.Sprintf("pool %d: %d slots from line %d, backends %d to %d", at.id, at.slots, at.lines.start, at.backends.start, at.backends.end-1)
}

func ceilPowerOfTwo(n uint32) uint32 {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len32(n-1)
}

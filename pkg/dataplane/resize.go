package dataplane

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/flux"
)

// Other limits mean other maps, and so do other addresses for fullnat, or a version
// that has more of them. They are filled beside those that packets use: all
// that the ledger names, at the numbers that it has, and the flows. Then the program
// is replaced, and flows that came in between are carried over as well. Fragments
// whose packet is on its way at that moment are lost.

// carryOver fills the maps from the former ones, and pins them as the next.
func (p *Plane) carryOver() error {
	former, err := mapMemory[lbLedgerPage](p.former[lbMapLedger])
	if err != nil {
		return err
	}
	defer former.close()
	l, err := p.readLedger(former)
	if err != nil {
		return err
	}
	if err := p.copyRecords(); err != nil {
		return err
	}
	if err := p.adoptServerIDs(p.former[lbMapServerIds]); err != nil {
		return err
	}
	if err := p.adopt(l); err != nil {
		return err
	}
	if err := p.copyCounters(); err != nil {
		return err
	}
	p.formerSources = l.NAT
	if err := p.carryConnections(); err != nil {
		return err
	}
	if err := p.carryGiven(); err != nil {
		return err
	}
	if err := p.record(nil); err != nil {
		return err
	}
	return p.pin.save(mapsNext, p.mapsByName())
}

// copyRecords copies pools, slots, backends and the clock; the VIP table is built
// anew by the next Apply.
func (p *Plane) copyRecords() error {
	control, err := mapMemory[lbControl](p.former[mapControl])
	if err != nil {
		return err
	}
	p.control.elements[0].Now, p.control.elements[0].Idle = control.elements[0].Now, control.elements[0].Idle
	if err := control.close(); err != nil {
		return err
	}
	if err := copyMap(p.pools, p.former[lbMapPools]); err != nil {
		return err
	}
	if err := copyMap(p.slots, p.former[lbMapSlots]); err != nil {
		return err
	}
	return copyMap(p.backends, p.former[lbMapBackends])
}

func copyMap[T any](to memory[T], m *ebpf.Map) error {
	from, err := mapMemory[T](m)
	if err != nil {
		return err
	}
	copy(to.elements, from.elements)
	return from.close()
}

// copyCounters copies what is counted of all that has a number, but for what a former
// version counted elsewhere.
func (p *Plane) copyCounters() error {
	if err := p.copyRows(); err != nil {
		return err
	}
	for _, v := range p.applied.vips {
		if p.former[lbMapGuardCounters] == nil {
			break // a former version had none
		}
		if err := copyCount[lbGuardCounters](p.maps.GuardCounters, p.former[lbMapGuardCounters], v.id); err != nil {
			return err
		}
	}
	// Of a version that has others, a reason's number is not what it is here.
	if p.former[lbMapReasons].MaxEntries() == p.maps.Reasons.MaxEntries() {
		for i := range uint32(lbReasonREASONS) {
			if err := copyCount[uint64](p.maps.Reasons, p.former[lbMapReasons], i); err != nil {
				return err
			}
		}
	}
	for i := range min(uint32(lbFlowEventFLOW_EVENTS), p.former[lbMapFlowEvents].MaxEntries()) {
		if err := copyCount[uint64](p.maps.FlowEvents, p.former[lbMapFlowEvents], i); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) copyRows() error {
	if p.former[lbMapVipRows] == nil || p.former[lbMapBackendRows] == nil {
		return nil
	}
	vips, err := mapRows(p.former[lbMapVipRows])
	if err != nil {
		return err
	}
	defer vips.close()
	backends, err := mapRows(p.former[lbMapBackendRows])
	if err != nil {
		return err
	}
	defer backends.close()
	for _, v := range p.applied.vips {
		p.vipCounters.copyFrom(&vips, v.id, v.id)
	}
	for _, at := range p.allPlaces() {
		for _, owner := range at.owners {
			index := at.base() + owner
			p.backendCounters.copyFrom(&backends, index, index)
		}
	}
	return nil
}

func copyCount[T any](to, from *ebpf.Map, index uint32) error {
	var perCPU []T
	if err := from.Lookup(index, &perCPU); err != nil {
		return fmt.Errorf("counters in %s: %w", from, err)
	}
	return to.Put(index, perCPU)
}

// carryFlows copies the flows that the flow table does not know yet.
func (p *Plane) carryFlows() error {
	former, err := mapMemory[lbFlowBucket](p.former[lbMapFlows])
	if err != nil {
		return err
	}
	for i := range former.elements {
		for j := range former.elements[i].Flow {
			if key, state, ok := loadFlow(&former.elements[i].Flow[j]); ok {
				p.carryFlow(key, state)
			}
		}
	}
	return former.close()
}

// carryFlow enters a flow by the protocol of bpf/flow.h. Without room it is given up,
// and slots wait as for any live entry that is lost.
func (p *Plane) carryFlow(key, state uint64) {
	places := p.placesOf(key)
	for _, e := range places {
		if known, _, ok := loadFlow(e); ok && known == key {
			return
		}
	}
	idle := flux.Tick(p.control.elements[0].Idle)
	for _, e := range places {
		was := atomic.LoadUint64(&e.Key)
		old := decodeFlow(was, atomic.LoadUint64(&e.State))
		if was == flowClaimed || was != 0 && flux.RankOf(old.Entry, p.now, idle) >= flux.RankOf(decodeFlow(key, state).Entry, p.now, idle) {
			continue
		}
		if atomic.CompareAndSwapUint64(&e.Key, was, flowClaimed) {
			atomic.StoreUint64(&e.State, state)
			atomic.StoreUint64(&e.Key, sealFlow(key, state))
			return
		}
	}
	p.noteLoss()
}

// placesOf are those where the entry of a key may be: at home and next door.
func (p *Plane) placesOf(key uint64) []*lbFlow {
	mask := uint32(len(p.flows.elements) - 1)
	home := uint32(key>>2) & mask
	places := make([]*lbFlow, 0, 2*flowsPerBucket)
	for _, at := range []uint32{home, (home ^ 1) & mask} {
		for i := range p.flows.elements[at].Flow {
			places = append(places, &p.flows.elements[at].Flow[i])
		}
	}
	return places
}

// carryConnections copies the connections that are not known yet.
func (p *Plane) carryConnections() error {
	if p.former == nil {
		return nil
	}
	if err := p.carryFlows(); err != nil {
		return err
	}
	return errors.Join(p.carryTranslations(), p.carrySplices())
}

// finishCarryOver is called when the program has been replaced everywhere.
func (p *Plane) finishCarryOver() error {
	if p.former == nil {
		return nil
	}
	// At once, for their next packets come to this program; and again when no packet is in
	// the former one any more, which may enter flows until then.
	if err := p.carryConnections(); err != nil {
		return err
	}
	if err := quiesce(); err != nil {
		return err
	}
	if err := p.carryConnections(); err != nil {
		return err
	}
	former := p.former
	p.former = nil
	return closeMaps(former)
}

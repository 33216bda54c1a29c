package reconcile

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/neighbor"
)

// Status reads counters from the maps and puts everything that is observed beside
// what was asked for.
func (l *Loop) Status(ctx context.Context) (model.Status, error) {
	var status model.Status
	var failure error
	err := l.call(ctx, func() { status, failure = l.status() })
	if err != nil {
		return model.Status{}, err
	}
	return status, failure
}

func (l *Loop) status() (model.Status, error) {
	counters, err := l.o.Plane.Counters()
	if err != nil {
		return model.Status{}, err
	}
	s := model.Status{
		Version:    l.o.Version,
		Started:    l.started,
		Revision:   l.desired.revision,
		Applied:    l.applied,
		Interfaces: l.o.Plane.Interfaces(),
		Reasons:    counters.Reasons,
		Fragments:  counters.Fragments,
		Maps:       l.o.Plane.Maps(),
	}
	flows := l.o.Plane.Flows()
	s.Flows, s.NAT = flows.Table, l.o.Plane.NAT()
	if failure := cmp.Or(l.failure, l.drainFailure, l.sweepFailure); failure != nil {
		s.Error = failure.Error()
	}
	view := poolView{counters: &counters, flows: &flows, snapshot: l.o.Checker.Snapshot(), hops: l.o.Resolver.Table(), reach: l.reaching(), full: l.full, rooms: map[dataplane.BackendKey]dataplane.Room{}}
	for _, room := range l.o.Plane.Rooms() {
		view.rooms[room.BackendKey] = room
	}
	for i := range l.desired.state.Pools {
		p := &l.desired.state.Pools[i]
		s.Pools = append(s.Pools, view.pool(p, l.forwarded.Pool(p.Name)))
	}
	for _, v := range l.desired.state.VIPs {
		s.VIPs = append(s.VIPs, model.VIPStatus{
			VIP: v, Available: l.available(v.Name), Counters: counters.VIPs[v.Name],
			InFlux: flows.VIPs[v.Name].InFlux, Flows: flows.VIPs[v.Name].Live,
			Dropped: counters.Dropped[v.Name], Observed: counters.Observed[v.Name], Forgotten: counters.Forgotten[v.Name],
		})
	}
	return s, nil
}

// available reports whether a VIP has a backend for new flows as of what was
// applied last: a VIP that is desired only has none.
func (l *Loop) available(vip string) bool {
	vips := l.forwarded.VIPs
	i, applied := slices.BinarySearchFunc(vips, vip, func(v model.VIP, name string) int { return strings.Compare(v.Name, name) })
	if !applied {
		return false
	}
	p := l.forwarded.Pool(vips[i].Pool)
	return p != nil && len(p.Members) > 0
}

// poolView is what a pool's status is read from.
type poolView struct {
	counters *dataplane.Counters
	flows    *dataplane.Flows
	snapshot *health.Snapshot
	hops     neighbor.Table
	reach    reach
	full     map[dataplane.BackendKey]bool
	rooms    map[dataplane.BackendKey]dataplane.Room
}

// pool describes a pool; forwarded is nil while it has not been applied.
func (v *poolView) pool(p *model.Pool, forwarded *forwarding.Pool) model.PoolStatus {
	status := model.PoolStatus{Name: p.Name, TableSize: p.TableSize, OnAllDown: p.OnAllDown, SlotsInFlux: v.flows.SlotsInFlux[p.Name]}
	var shares map[model.BackendID]uint32
	var keeping map[model.BackendID]bool
	if forwarded != nil {
		shares, keeping = forwarded.Shares(), forwarded.Keeping()
	}
	for _, b := range p.Backends {
		key := dataplane.BackendKey{Pool: p.Name, ID: b.BackendID}
		backend := model.BackendStatus{
			Backend:    b,
			Slots:      shares[b.BackendID],
			Flows:      v.flows.Backends[key].Live,
			Named:      v.flows.Backends[key].Named,
			KeepsFlows: keeping[b.BackendID],
			Counted:    v.rooms[key].Counted,
			Full:       v.full[key],
			NextHop:    v.nextHop(p.Name, b.Address),
			Counters:   v.counters.Backends[key],
		}
		backend.Health, backend.Since = v.snapshot.Backend(p, b.BackendID)
		for _, c := range p.Checks {
			check, ok := v.snapshot.Check(health.Key{Pool: p.Name, Backend: b.BackendID, Check: c.Name})
			if ok {
				backend.Checks = append(backend.Checks, check)
			}
		}
		status.Backends = append(status.Backends, backend)
	}
	return status
}

func (v *poolView) nextHop(pool string, addr netip.Addr) model.NextHop {
	hop := v.hops[addr]
	next := model.NextHop{Interface: hop.Interface, VLAN: hop.VLAN, Problem: hop.Problem}
	switch {
	case hop.Problem != "":
	case hop.Link == 0:
		next.Problem = "not yet resolved"
	default:
		if next.Problem = v.reach.problem(pool, addr); next.Problem != "" {
			return next
		}
		next.MAC = net.HardwareAddr(hop.Destination[:]).String()
	}
	return next
}

package reconcile

import (
	"maps"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// A full backend gets its slots back when it has at most three quarters of the connections
// that it may have: one that is full by turns would have slots move all the time.
const roomParts, roomAgain = 4, 3

// limited are the backends with a limit of connections.
func (l *Loop) limited() map[dataplane.BackendKey]bool {
	limited := map[dataplane.BackendKey]bool{}
	for i := range l.desired.state.Pools {
		p := &l.desired.state.Pools[i]
		for j := range p.Backends {
			if b := &p.Backends[j]; b.MaxConnections > 0 {
				limited[dataplane.BackendKey{Pool: p.Name, ID: b.BackendID}] = true
			}
		}
	}
	return limited
}

// pauseWith is the time from one sweep to the next. What has ended has its place until a
// sweep finds that out, so with limits of connections they follow each other.
func pauseWith(limited map[dataplane.BackendKey]bool) time.Duration {
	if len(limited) > 0 {
		return dataplane.TickLength
	}
	return sweepPause
}

// watchRooms notes, when a sweep has ended, which backends are full, and moves their slots
// if that are others than before.
func (l *Loop) watchRooms(limited map[dataplane.BackendKey]bool) {
	before := maps.Clone(l.full)
	maps.DeleteFunc(l.full, func(key dataplane.BackendKey, _ bool) bool { return !limited[key] })
	for _, room := range l.o.Plane.Rooms() {
		switch {
		case !limited[room.BackendKey]:
		case room.Full && !l.full[room.BackendKey]:
			l.full[room.BackendKey] = true
			l.o.Log.Warn("backend is full; others get its new connections", "pool", room.Pool, "backend", room.ID.String(), "connections", room.Counted, "max_connections", room.Limit)
		case l.full[room.BackendKey] && room.Counted*roomParts <= room.Limit*roomAgain:
			delete(l.full, room.BackendKey)
			l.o.Log.Info("backend has room again", "pool", room.Pool, "backend", room.ID.String(), "connections", room.Counted, "max_connections", room.Limit)
		}
	}
	if !maps.Equal(before, l.full) {
		l.reconcile()
	}
}

// isFull is what [forwarding.Build] asks.
func (l *Loop) isFull(pool string, id model.BackendID) bool {
	return l.full[dataplane.BackendKey{Pool: pool, ID: id}]
}

package dataplane

import (
	"sync/atomic"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
)

// How long a flow counts against a limit that is not known to be a connection; see
// bpf/room.h.
const (
	// halfOpenCounts: its second packet has not come.
	halfOpenCounts = 10 * time.Second
	// closingCounts: its client has said that it ends.
	closingCounts = 2 * time.Second
)

// roomed is a backend with a limit of connections. Its flows may be on former places of its
// pool as well.
type roomed struct {
	key   BackendKey
	index uint32
	limit uint64
	// room is its element of the map.
	room *lbRoom
	// found are the connections that the last sweep counted; known says that one has ended
	// since the limit was there.
	found uint64
	known bool
}

// Room is how many connections a backend has that has a limit of them.
type Room struct {
	BackendKey
	Limit uint64
	// Counted are those that may be there: what the last sweep has found and what has begun
	// since, whether it has ended or not.
	Counted uint64
	// Full: a new one would be refused.
	Full bool
}

// Rooms tells of every backend with a limit, once a sweep has counted its connections.
func (p *Plane) Rooms() []Room {
	var out []Room
	for _, r := range p.roomed {
		if !r.known {
			continue
		}
		taken, ceiling := atomic.LoadUint64(&r.room.Taken), atomic.LoadUint64(&r.room.Ceiling)
		room := Room{r.key, r.limit, max(r.limit, r.found), taken >= ceiling}
		if !room.Full {
			room.Counted = r.limit - min(r.limit, ceiling-taken)
		}
		out = append(out, room)
	}
	return out
}

// planRoom sets what packets may take of a backend's room before its record says that it has
// a limit. One that is fresh has no flows; one that had none counted is full until they are.
func (p *Plane) planRoom(index uint32, b forwarding.Backend, fresh bool) {
	room, limit := &p.rooms.elements[index], uint64(b.MaxConnections)
	was := atomic.LoadUint64(&room.Limit)
	taken, ceiling := atomic.LoadUint64(&room.Taken), atomic.LoadUint64(&room.Ceiling)
	switch {
	case limit == was:
		return
	case limit == 0: // until its record says so, too, it holds
	case was == 0 && fresh:
		ceiling = taken + limit
	case was == 0:
		ceiling = 0
		p.sweeping = nil // it knows nothing of this one
	case limit < was:
		ceiling -= min(ceiling, was-limit)
	}
	// A higher limit holds once a sweep has found how much room that is.
	atomic.StoreUint64(&room.Ceiling, ceiling)
	atomic.StoreUint64(&room.Limit, limit)
}

// planRooms sets the rooms of a place's backends.
func (p *Plane) planRooms(at *place, pool *forwarding.Pool) {
	last := p.applied.places[at.pool]
	for _, b := range pool.Backends {
		owner, numbered := at.owners[b.ID]
		if !numbered {
			continue
		}
		_, left := at.left[b.ID]
		moved := false
		if last != nil && last != at {
			_, moved = last.owners[b.ID]
		}
		index := at.base() + owner
		p.planRoom(index, b, !left && !moved && p.backends.elements[index] == lbBackend{})
	}
}

// noteRooms finds the backends with a limit, under all their numbers.
func (p *Plane) noteRooms() {
	before := p.roomByIndex
	byKey := map[BackendKey]*roomed{}
	p.roomed, p.roomByIndex = nil, map[uint32]*roomed{}
	for name, at := range p.applied.places {
		pool := p.applied.pools[name]
		for _, b := range pool.Backends {
			if b.MaxConnections == 0 {
				continue
			}
			index := at.base() + at.owners[b.ID]
			r := &roomed{key: BackendKey{name, b.ID}, index: index, limit: uint64(b.MaxConnections), room: &p.rooms.elements[index]}
			if was := before[index]; was != nil && was.key == r.key && was.index == index {
				was.limit, r = r.limit, was
			}
			p.roomed = append(p.roomed, r)
			p.roomByIndex[index], byKey[r.key] = r, r
		}
	}
	for _, g := range p.ghosts {
		for id, owner := range g.owners {
			if r := byKey[BackendKey{g.pool, id}]; r != nil {
				p.roomByIndex[g.base()+owner] = r
			}
		}
	}
}

// beginCount notes what is taken before a sweep looks at the first flow. A packet that has
// taken a place has entered its flow by then.
func (p *Plane) beginCount(s *sweep) error {
	if len(p.roomed) == 0 {
		return nil
	}
	s.taken, s.counted = make(map[*roomed]uint64, len(p.roomed)), make(map[*roomed]uint64, len(p.roomed))
	for _, r := range p.roomed {
		s.taken[r] = atomic.LoadUint64(&r.room.Taken)
	}
	return quiesce()
}

// limited is the backend of an index if its connections are counted, nil if not. Most
// sweeps count none.
func (s *sweep) limited(p *Plane, index uint32) *roomed {
	if s.counted == nil {
		return nil
	}
	return p.roomByIndex[index]
}

// countFlow counts a live flow against its backend's limit.
func (p *Plane) countFlow(s *sweep, e flux.Entry) {
	r := s.limited(p, e.Backend)
	if r == nil {
		return
	}
	age := flux.Age(p.now, e.Seen)
	if e.Closing && age > ticks(closingCounts) || !e.Closing && !e.Confirmed && age > ticks(halfOpenCounts) {
		return
	}
	s.counted[r]++
}

// countTranslation counts a connection of fullnat against its backend's limit.
func (p *Plane) countTranslation(s *sweep, t translation) {
	r := s.limited(p, t.backend)
	if r == nil {
		return
	}
	ended := t.flags&lbNatFlagNAT_RESET != 0 || t.flags&natClosed == natClosed
	if ended && t.silent(s.natNow, closingCounts) || !ended && t.flags&natOpen != natOpen && t.silent(s.natNow, halfOpenCounts) {
		return
	}
	s.counted[r]++
}

// endCount gives every backend with a limit the room that a sweep has found. A ceiling is
// never lowered: by what was found then it holds for good. Who came after the sweep had begun
// may be in both counts, what is found and what is taken, and would take others' room.
func (p *Plane) endCount(s *sweep) {
	for _, r := range p.roomed {
		taken, known := s.taken[r]
		if !known {
			continue
		}
		r.found, r.known = s.counted[r], true
		ceiling := taken
		if r.found < r.limit {
			ceiling += r.limit - r.found
		}
		if ceiling > atomic.LoadUint64(&r.room.Ceiling) {
			atomic.StoreUint64(&r.room.Ceiling, ceiling)
		}
	}
}

package flux

// The times of the tests, in ticks: what is promised to flows that fall silent
// no longer, and what that takes in the flow table, whose time stamps may lag by
// RefreshAge-1.
const (
	patience        = 16
	closingPatience = 6
	stampLag        = RefreshAge - 1
)

// faults are ways of getting it wrong, for negative controls.
type faults struct {
	// off goes by the slot's owner alone.
	off bool
	// forgetPrior takes the last owner for the prior, whatever came before it.
	forgetPrior bool
	// ignoreHeld settles slots without asking what the sweep found.
	ignoreHeld bool
	// hasty settles slots that have just gone in flux.
	hasty bool
	// lateSweep takes a sweep to have seen what is there at its end.
	lateSweep bool
	// noLost keeps it quiet that live entries had to give way.
	noLost bool
	// noLag has entries expire as soon as their time stamp is old enough.
	noLag bool
	// reuseNamed gives the number of a backend away as soon as that leaves.
	reuseNamed bool
	// forgetPriorPool takes the last pool of a VIP for its prior one.
	forgetPriorPool bool
}

const (
	poolCount       = 3
	backendsPerPool = 7
	// numbersPerPool are as many backend records as a pool has, from its base on.
	numbersPerPool = 16
)

// world is one balancer: what the control plane and the packet path do with the
// rules of this package, without the kernel in between.
type world struct {
	faults
	now      Tick
	pools    [poolCount]*pool
	vips     []*vip
	backends [poolCount * numbersPerPool]backend
	// epoch counts the changes; identities the backends that there ever were.
	epoch, identities int
	flows             *buckets
	// lossy says that live entries have given way since the last sweep ended;
	// lost when a sweep last learnt of it.
	lossy, everLost bool
	lost            Tick
	// consulted counts questions to the flow table, settled the slots that did.
	consulted, settled int
	sweep              *sweep
}

type pool struct {
	table *Table
	base  uint32
}

// index is the number of an owner's backend among all.
func (p *pool) index(owner uint32) uint32 {
	if owner < First {
		return owner
	}
	return p.base + owner
}

func (p *pool) slot(hash uint64) uint32 {
	return uint32((hash >> 32) * uint64(len(p.table.Words())) >> 32)
}

func (p *pool) word(hash uint64) Word { return p.table.Words()[p.slot(hash)] }

// backend is what has a number. Its identity is another one when the number is
// used again, and 0 while it is free.
type backend struct {
	identity int
	able     Ability
	// salt is what its share of the slots depends on.
	salt uint64
	// left says in which epoch it left its pool, 0 while it is there.
	left int
}

type vip struct {
	pool, prior  int // prior is -1 while the VIP is settled
	since, moved Tick
}

func newWorld(f faults, slots []int, flowBuckets int) *world {
	w := &world{faults: f, epoch: 1, flows: newBuckets(flowBuckets)}
	for i := range w.pools {
		w.pools[i] = &pool{NewTable(uint32(slots[i])), uint32(i * numbersPerPool)}
	}
	for i := range poolCount - 1 {
		w.vips = append(w.vips, &vip{pool: i, prior: -1})
	}
	return w
}

func (w *world) able(index uint32) Ability { return w.backends[index].able }

// idle is the age beyond which an entry has expired.
func (w *world) idle(e Entry) Tick {
	idle := Tick(patience)
	if e.Closing {
		idle = closingPatience
	}
	if !w.noLag {
		idle += stampLag
	}
	return idle
}

// route is what the packet path does; the index of the backend, or of nobody.
func (w *world) route(v *vip, hash uint64, p Packet) uint32 {
	at := w.pools[v.pool]
	word := at.word(hash)
	owner, prior := at.index(word.Owner()), at.index(word.Prior())
	if w.off || !word.InFlux() && v.prior < 0 {
		return owner
	}
	w.consulted++
	if v.prior >= 0 {
		from := w.pools[v.prior]
		prior = from.index(from.word(hash).Prior())
	}
	key := keyOf(hash)
	e := w.flows.find(key)
	index, next := Route(Choice{Owner: owner, Prior: prior}, e, p, w.now, w.able)
	switch {
	case index < First:
	case e != nil:
		*e = next
	default:
		w.flows.remember(key, next, w.now, w.idle(Entry{})+1)
	}
	return index
}

// balance gives every slot of a pool the owner that it should have now. Each
// slot prefers backends in an order of its own, as with Maglev's tables.
func (w *world) balance(number int) {
	w.epoch++
	at := w.pools[number]
	for slot := range uint32(len(at.table.Words())) {
		owner, highest := uint32(0), uint64(0)
		for o := uint32(First); o < First+backendsPerPool; o++ {
			b := &w.backends[at.base+o]
			if b.able&TakesFlows == 0 {
				continue
			}
			if score := mix(b.salt ^ uint64(slot)); score > highest {
				owner, highest = o, score
			}
		}
		before := at.table.Words()[slot]
		if at.table.Move(slot, owner, w.now) && w.forgetPrior && before.InFlux() {
			at.table.write(slot, Word(owner)|fluxBit|Word(before.Owner())<<priorShift)
		}
	}
}

// add makes a backend on a free number of a pool, if there is one.
func (w *world) add(number int) {
	at := w.pools[number]
	for o := uint32(First); o < First+backendsPerPool; o++ {
		b := &w.backends[at.base+o]
		if b.identity != 0 && !(w.reuseNamed && b.left > 0) {
			continue
		}
		w.identities++
		*b = backend{identity: w.identities, able: TakesFlows | KeepsFlows, salt: mix(uint64(w.identities))}
		w.balance(number)
		return
	}
}

// change gives a backend other abilities.
func (w *world) change(index uint32, able Ability) {
	w.backends[index].able = able
	w.balance(int(index) / numbersPerPool)
}

// remove takes a backend out of its pool. It keeps its flows; its number is free
// when nothing names it any more.
func (w *world) remove(index uint32) {
	w.change(index, w.able(index)&KeepsFlows)
	w.backends[index].left = w.epoch
}

// point gives a VIP another pool.
func (w *world) point(v *vip, pool int) {
	if v.pool == pool {
		return
	}
	w.epoch++
	if v.prior < 0 {
		v.prior, v.since = v.pool, w.now
	} else if w.forgetPriorPool {
		v.prior = v.pool
	}
	v.pool, v.moved = pool, w.now
}

// sweep is a pass over the flow table, made in steps while time goes on.
type sweep struct {
	began  Tick
	epoch  int
	next   int // bucket
	held   map[*pool]map[uint32]bool
	named  map[uint32]bool
	strays map[*vip]bool
}

// advance looks at some more buckets and reports whether the pass has ended.
func (w *world) advance(n int, vipOf func(key uint64) *vip) bool {
	if w.sweep == nil {
		w.sweep = &sweep{
			began: w.now, epoch: w.epoch,
			held: map[*pool]map[uint32]bool{}, named: map[uint32]bool{}, strays: map[*vip]bool{},
		}
		for _, at := range w.pools {
			w.sweep.held[at] = map[uint32]bool{}
		}
	}
	s := w.sweep
	for ; n > 0 && s.next < len(w.flows.bucket); n-- {
		for i := range w.flows.bucket[s.next] {
			if p := &w.flows.bucket[s.next][i]; p.key != 0 {
				w.visit(s, p, vipOf(p.key))
			}
		}
		s.next++
	}
	if s.next < len(w.flows.bucket) {
		return false
	}
	w.sweep = nil
	w.conclude(s)
	return true
}

func (w *world) visit(s *sweep, p *place, v *vip) {
	if Age(w.now, p.Seen) > w.idle(p.Entry) {
		*p = place{}
		return
	}
	at := w.pools[p.Backend/numbersPerPool]
	s.named[p.Backend] = true
	if at != w.pools[v.pool] {
		s.strays[v] = true
	}
	if at.index(at.word(p.key).Owner()) != p.Backend {
		s.held[at][at.slot(p.key)] = true
	}
}

// conclude settles what may settle, and takes back numbers.
func (w *world) conclude(s *sweep) {
	if w.lateSweep {
		s.began = w.now
	}
	if w.lossy && !w.noLost {
		w.everLost, w.lost = true, w.now
		for _, at := range w.pools {
			at.table.Lost(w.now)
		}
	}
	w.lossy = false
	idle := w.idle(Entry{})
	if w.hasty {
		idle = 0
	}
	for _, at := range w.pools {
		settled := at.table.Settle(s.began, w.now, idle, func(slot uint32) bool { return s.held[at][slot] && !w.ignoreHeld })
		w.settled += len(settled)
	}
	for _, v := range w.vips {
		w.settle(v, s, idle)
	}
	for i := range w.backends {
		b := &w.backends[i]
		at := w.pools[i/numbersPerPool]
		if b.left > 0 && b.left <= s.epoch && !s.named[uint32(i)] && !at.table.Names(uint32(i)-at.base) {
			*b = backend{}
		}
	}
}

// settle ends the flux of a VIP whose flows have all left its prior pool, by the
// rule by which slots settle.
func (w *world) settle(v *vip, s *sweep, idle Tick) {
	sweepAge := Age(w.now, s.began)
	if v.prior < 0 || s.strays[v] && !w.ignoreHeld || Age(w.now, v.moved) <= sweepAge ||
		Age(w.now, v.since) <= sweepAge+idle || w.everLost && Age(w.now, w.lost) <= sweepAge+idle {
		return
	}
	v.prior = -1
}

// mix is the finalizer of SplitMix64: a bijection in which every bit depends on all.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

package flux

import "testing"

// Backends of the tests, by what they can.
const (
	owner = First + iota
	prior
	draining
	dead
	third
	nobody = 0
)

func able(backend uint32) Ability {
	switch backend {
	case owner, prior, third:
		return TakesFlows | KeepsFlows
	case draining:
		return KeepsFlows
	}
	return 0
}

func TestRoute(t *testing.T) {
	const now = Tick(1 << 19)
	const recent, past, longAgo = now - RefreshAge + 1, now - RefreshAge, Tick(0)
	var (
		opener = Packet{Opener: true}
		middle = Packet{}
		closer = Packet{Closer: true}
		again  = Packet{Opener: true, Again: true}
	)
	essential := func(backend uint32, seen Tick) Entry { return Entry{Backend: backend, Seen: seen, Essential: true} }
	confirmed := func(e Entry) Entry { e.Confirmed = true; return e }
	closing := func(e Entry) Entry { e.Closing = true; return e }
	ofPrior := func(backend uint32, seen Tick) Entry { return confirmed(Entry{Backend: backend, Seen: seen}) }
	for _, c := range []struct {
		name  string
		prior uint32
		entry Entry // the zero entry stands for none
		Packet
		to   uint32
		next Entry
	}{
		{"an opener goes to the owner", prior, Entry{}, opener, owner, essential(owner, now)},
		{"an unknown flow stays with the prior", prior, Entry{}, middle, prior, ofPrior(prior, now)},
		{"and so if that gets no new flows", draining, Entry{}, middle, draining, ofPrior(draining, now)},
		{"an unknown flow ends", prior, Entry{}, closer, prior, closing(ofPrior(prior, now))},
		{"the prior is dead", dead, Entry{}, middle, owner, essential(owner, now)},
		{"the prior is nobody", nobody, Entry{}, middle, owner, essential(owner, now)},
		{"a flow ends whose prior is dead", dead, Entry{}, closer, owner, closing(essential(owner, now))},

		{"a known flow stays", prior, essential(third, recent), middle, third, confirmed(essential(third, recent))},
		{"it says that it lives when its stamp is old", prior, essential(third, past), middle, third, confirmed(essential(third, now))},
		{"and it may have idled out", prior, essential(third, longAgo), middle, third, confirmed(essential(third, now))},
		{"a known flow drains", prior, confirmed(essential(draining, recent)), middle, draining, confirmed(essential(draining, recent))},
		{"a flow of the prior stays its flow", prior, ofPrior(prior, past), middle, prior, ofPrior(prior, now)},
		{"a known flow ends", prior, confirmed(essential(third, recent)), closer, third, closing(confirmed(essential(third, recent)))},
		{"more comes after its end", prior, closing(confirmed(essential(third, recent))), middle, third, closing(confirmed(essential(third, recent)))},

		{"an opener comes twice", prior, essential(third, recent), opener, third, essential(third, recent)},
		{"an opener uses a 5-tuple again", prior, closing(confirmed(essential(third, recent))), opener, third, confirmed(essential(third, recent))},
		{"an opener comes twice and its backend drains", prior, confirmed(essential(draining, recent)), opener, owner, essential(owner, now)},
		{"one of a connection that is being made, and its backend drains", prior, confirmed(essential(draining, recent)), again, draining, confirmed(essential(draining, recent))},
		{"one of a connection that was being made, and its backend is dead", prior, essential(dead, recent), again, owner, essential(owner, now)},
		{"an opener meets a dead backend", prior, closing(confirmed(essential(dead, recent))), opener, owner, essential(owner, now)},
		{"a known flow's backend is dead", prior, ofPrior(dead, recent), middle, owner, essential(owner, now)},
	} {
		var e *Entry
		if c.entry != (Entry{}) {
			e = &c.entry
		}
		before := c.entry
		to, next := Route(Choice{Owner: owner, Prior: c.prior}, e, c.Packet, now, able)
		if to != c.to || next != c.next {
			t.Errorf("%s: to %d with %+v, want %d with %+v", c.name, to, next, c.to, c.next)
		}
		if c.entry != before {
			t.Errorf("%s: the entry was written to", c.name)
		}
	}
}

// The ranks rise in the order in which entries give way.
func TestRankOf(t *testing.T) {
	const now, live, expired, idle = Tick(1000), Tick(901), Tick(900), Tick(100)
	want := RankExpired
	for _, entries := range [][]Entry{
		{{Seen: expired}, {Seen: expired, Essential: true, Confirmed: true}, {Seen: expired - 1, Closing: true}},
		{{Seen: live, Closing: true}, {Seen: now, Essential: true, Confirmed: true, Closing: true}, {Seen: now, Essential: true, Closing: true}},
		{{Seen: live, Confirmed: true}, {Seen: now}},
		{{Seen: live, Essential: true}, {Seen: now, Essential: true}},
		{{Seen: live, Essential: true, Confirmed: true}, {Seen: now, Essential: true, Confirmed: true}},
	} {
		for _, e := range entries {
			if got := RankOf(e, now, idle); got != want {
				t.Errorf("%+v has rank %d, want %d", e, got, want)
			}
		}
		want++
	}
}

// Ticks wrap around, and entries hold only the lowest bits of one.
func TestAge(t *testing.T) {
	const round = 1 << TickBits
	for _, c := range []struct{ now, seen, want Tick }{
		{0, 0, 0},
		{5, 3, 2},
		{round + 5, 5, 0},
		{round + 5, round - 1, 6},
		{2, round - 3, 5},
		{1, 1<<32 - 2, 3},
		{1<<32 - 1, round - 2, 1},
		{3, 4, round - 1},
	} {
		if got := Age(c.now, c.seen); got != c.want {
			t.Errorf("from %d to %d it is %d ticks, want %d", c.seen, c.now, got, c.want)
		}
	}
}

package flux

// Ability is what a backend may still be given.
type Ability uint8

const (
	// TakesFlows: it gets new flows.
	TakesFlows Ability = 1 << iota
	// KeepsFlows: it gets packets of the flows that it has.
	KeepsFlows
)

// Tick is the flow table's coarse time; see [Age]. It wraps around.
type Tick uint32

// TickBits is how many bits of a Tick an entry holds.
const TickBits = 20

// Age is the time from seen to now in ticks, modulo the wrap-around.
func Age(now, seen Tick) Tick { return (now - seen) & (1<<TickBits - 1) }

// RefreshAge is the age from which a packet writes the time into its entry, in
// ticks: time stamps are coarse so that few packets write.
const RefreshAge = 4

// Entry is what the flow table remembers of a flow.
type Entry struct {
	Backend uint32
	Seen    Tick
	// Essential entries were made by openers; the others say what would be
	// answered without them, and only tell that their flow is alive.
	Essential bool
	// Confirmed entries have seen a second packet.
	Confirmed bool
	// Closing entries have seen a FIN or RST.
	Closing bool
}

// Packet is what matters of a packet.
type Packet struct {
	// Opener starts a flow; Closer ends one.
	Opener, Closer bool
	// Again: openers of the protocol come again while a connection is made, so
	// that one does not tell that its flow begins. QUIC's do.
	Again bool
	// About the flow, not of it: an ICMP error. It changes nothing.
	About bool
}

// Choice is what slots say of a flow: whom it goes to if it is new, and whom if
// it began before the flux.
type Choice struct{ Owner, Prior uint32 }

// Route decides where a packet of a flow in flux goes, and what its entry is from
// then on, unless the packet is only about the flow. The entry is nil if the table
// has none.
func Route(c Choice, e *Entry, p Packet, now Tick, able func(backend uint32) Ability) (uint32, Entry) {
	if e != nil && able(e.Backend)&KeepsFlows != 0 && (!p.Opener || p.Again || able(e.Backend)&TakesFlows != 0) {
		next := *e
		if Age(now, e.Seen) >= RefreshAge {
			next.Seen = now
		}
		next.Confirmed = e.Confirmed || !p.Opener
		next.Closing = (e.Closing || p.Closer) && !p.Opener
		return e.Backend, next
	}
	// A flow whose backend is gone starts again, whatever the packet. Its entry is
	// confirmed by another one only: anybody can send a packet out of the blue.
	if p.Opener || e != nil || able(c.Prior)&KeepsFlows == 0 {
		return c.Owner, Entry{Backend: c.Owner, Seen: now, Essential: true, Closing: p.Closer}
	}
	return c.Prior, Entry{Backend: c.Prior, Seen: now, Confirmed: true, Closing: p.Closer}
}

// Rank orders the entries of a full bucket: the lowest gives way first. Empty
// places rank below all. An entry of rank [RankConnection] is a live connection
// that could not be told otherwise; an opener never takes its place.
type Rank int

// The ranks, in the order in which entries give way; equals by age, oldest first.
const (
	RankExpired Rank = iota
	RankClosing
	RankPrior
	RankEmbryonic
	RankConnection
)

// latest is the greatest age: what looks older was seen by a processor that read the
// clock a little later.
const latest = (1<<TickBits - 1) / 2

// RankOf ranks an entry; idle is the age at which any flow has expired.
func RankOf(e Entry, now, idle Tick) Rank {
	age := Age(now, e.Seen)
	switch {
	case age >= idle && age <= latest:
		return RankExpired
	case e.Closing:
		return RankClosing
	case !e.Essential:
		return RankPrior
	case !e.Confirmed:
		return RankEmbryonic
	}
	return RankConnection
}

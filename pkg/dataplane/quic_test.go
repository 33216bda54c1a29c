package dataplane

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

const quic1, quic2 = 1, 0x6b3343cf

// long is a datagram that begins with a long header (RFC 8999, section 5.1).
func long(first byte, version uint32, id []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{first}, version)
	return slices.Concat(b, []byte{byte(len(id))}, id, []byte{0}, text(40))
}

// short is one that begins with a short header (RFC 8999, section 5.2).
func short(first byte, id []byte) []byte { return slices.Concat([]byte{first}, id, text(21)) }

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// vector and vector1 are the connection IDs without encryption of
// draft-ietf-quic-load-balancers-21, appendix B.1: those of backend vectorBackend of every
// pool. The second one is misprinted there; with configuration 1, a server ID of 5 bytes
// and a nonce of 5 it is well-formed, and this.
const vector, vector1, vectorBackend = "07c4605e4504cc4f", "2a350d28b4203487d9700b", 42

// idsOf are the server IDs of the nth backend of a pool, of three lengths.
func idsOf(s service, n int) []model.ServerID {
	pool := byte(hostNumber(s.family)) ^ byte(s.port)
	id, id1 := string([]byte{pool, byte(n), 3}), string([]byte{0x35, pool, 0x28, 0xb4, byte(n)})
	if n == vectorBackend {
		id, id1 = string(unhex(vector)[1:4]), string(unhex(vector1)[1:6])
	}
	return []model.ServerID{
		{Config: 0, ID: id},
		{Config: 1, ID: id1},
		{Config: 6, ID: string([]byte{byte(n), pool, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})},
	}
}

// cid is a connection ID with a server ID, 4 bytes of nonce behind it.
func cid(id model.ServerID) []byte {
	return slices.Concat([]byte{id.Config<<5 | byte(len(id.ID)+4)}, []byte(id.ID), unhex("4504cc4f"))
}

// isQUIC makes VIPs of UDP carry QUIC.
func isQUIC(v *model.VIP) {
	if v.Protocol == model.UDP {
		v.QUIC = true
	}
}

// named is a state whose backends have server IDs.
func (c *crowd) named(change func(*model.VIP)) forwarding.State {
	state := c.state(change)
	for i := range state.Pools {
		pool := &state.Pools[i]
		people := c.services[pool.Name]
		for j := range pool.Backends {
			b := &pool.Backends[j]
			n := slices.IndexFunc(people, func(s service) bool { return s.backend == b.ID.Address })
			b.ServerIDs = idsOf(people[n], n)
		}
	}
	return state
}

func newQUICCrowd(t *testing.T) *crowd {
	c := newCrowd(t, Limits{Flows: 1 << 12}, testOptions(), isQUIC)
	applyTo(t, c.Plane, c.named(isQUIC))
	return c
}

// everyDatagram does something with datagrams that hold the same data, of many clients.
func (c *crowd) everyDatagram(data func(people []service) []byte, do func(f family, w way, p packet) service) {
	c.Helper()
	c.everyFlow(ways(), 5, func(f family, w way, p packet) service {
		d, ok := p.payload.(udp)
		if !ok {
			return c.owner(f, w, hashOf(p))
		}
		d.data = data(c.of(f, w))
		p.payload = d
		return do(f, w, p)
	})
}

// TestOpenersOfQUIC: which packets count as connections. No ID here names a backend.
func TestOpenersOfQUIC(t *testing.T) {
	c := newQUICCrowd(t)
	random := unhex("e1a2a3a4a5a6a7a8")
	for name, d := range map[string]struct {
		data   []byte
		opener bool
	}{
		"initial":                {long(0xc3, quic1, random), true},
		"initial, bit greased":   {long(0x83, quic1, random), true},
		"0-rtt":                  {long(0xd3, quic1, random), true},
		"handshake":              {long(0xe3, quic1, random), false},
		"retry":                  {long(0xf3, quic1, random), false},
		"initial of v2":          {long(0xd3, quic2, random), true},
		"0-rtt of v2":            {long(0xe3, quic2, random), true},
		"handshake of v2":        {long(0xf3, quic2, random), false},
		"retry of v2":            {long(0xc3, quic2, random), false},
		"unknown version":        {long(0xf3, 0xff00001d, random), true},
		"unknown, short id":      {long(0xf3, 0xff00001d, random[:1]), true},
		"greased version":        {long(0xe3, 0x1a2a3a4a, random), true},
		"initial, longest id":    {long(0xc3, quic1, slices.Concat(random, random, random[:4])), true},
		"initial, id of 7 bytes": {long(0xc3, quic1, random[:7]), false},
		"initial, no id":         {long(0xc3, quic1, nil), false},
		"0-rtt, id of 4 bytes":   {long(0xd3, quic1, random[:4]), false},
		"initial of v2, 4 bytes": {long(0xd3, quic2, random[:4]), false},
		"short header":           {short(0x43, random), false},
		"short header, greased":  {short(0x03, random), false},
		"nothing":                {nil, false},
		"one byte":               {[]byte{0xc3}, false},
		"cut off in the version": {[]byte{0xc3, 0, 0, 0}, false},
		"cut off at the length":  {[]byte{0xc3, 0, 0, 0, 1}, false},
	} {
		connections := func() (n uint64) {
			counters, err := c.Counters()
			c.must("counters", err)
			for _, v := range counters.VIPs {
				n += v.Connections
			}
			return n
		}
		before, sent := connections(), uint64(0)
		c.everyDatagram(func([]service) []byte { return d.data }, func(f family, w way, p packet) service {
			s := c.owner(f, w, hashOf(p))
			c.must(name, c.reaches(p, s, hashOf(p)))
			sent++
			return s
		})
		if !d.opener {
			sent = 0
		}
		if got := connections() - before; got != sent {
			t.Errorf("%s: %d connections, want %d", name, got, sent)
		}
	}
	if c.counted(lbFlowEventFLOW_REMEMBERED) != 0 {
		t.Error("settled flows have left traces")
	}
}

// TestConnectionIDs: who names a backend reaches it from anywhere, who does not goes
// by the 5-tuple.
func TestConnectionIDs(t *testing.T) {
	c := newQUICCrowd(t)
	random := rand.New(rand.NewPCG(1, 2))
	c.everyDatagram(func([]service) []byte { return nil }, func(f family, w way, p packet) service {
		people := c.of(f, w)
		send := func(name string, data []byte, s service) {
			c.Helper()
			d := p.payload.(udp)
			d.data = data
			p.payload = d
			c.must(name, c.reaches(p, s, hashOf(p)))
		}
		n := random.IntN(crowdBackends)
		owner := c.owner(f, w, hashOf(p))
		for _, id := range [][]byte{unhex(vector), unhex(vector1)} {
			send("the draft's vector", short(0x40, id), people[vectorBackend])
			send("the draft's vector, long", long(0xe0, quic1, id), people[vectorBackend])
			if length := int(id[0] & 0x1f); length != len(id)-1 {
				t.Errorf("the first octet of %x says %d bytes", id, length)
			}
		}
		for _, id := range idsOf(people[n], n) {
			whole := cid(id)
			send("short", short(0x40, whole), people[n])
			send("short, bits greased", short(0x3f, whole), people[n])
			for _, first := range []byte{0xc0, 0xd0, 0xe0, 0xf0, 0x80} {
				send("long", long(first, quic1, whole), people[n])
				send("long of v2", long(first, quic2, whole), people[n])
			}
			send("long of any version", long(0xc0, 0xff00001d, whole), people[n])
			other := slices.Clone(whole)
			other[0] ^= 0x1f
			send("another length in the first octet", short(0x40, other), people[n])
			send("another nonce", short(0x40, slices.Concat(whole[:1+len(id.ID)], unhex("00112233"))), people[n])
			send("longer than it must be", long(0xe0, quic1, slices.Concat(whole, []byte{1})), people[n])
			send("no nonce", long(0xe0, quic1, whole[:1+len(id.ID)]), people[n])
			send("id cut off", long(0xe0, quic1, whole[:len(id.ID)]), owner)
			send("first octet alone", long(0xe0, quic1, whole[:1]), owner)
			send("no id", long(0xe0, quic1, nil), owner)
			unknown := slices.Clone(whole)
			unknown[len(id.ID)] ^= 0x80
			send("unknown server", short(0x40, unknown), owner)
			for config := range byte(8) {
				if config != 0 && config != 1 && config != 6 {
					other[0] = config<<5 | whole[0]&0x1f
					send("another configuration", short(0x40, other), owner)
					send("another configuration, long", long(0xe0, quic1, other), owner)
				}
			}
		}
		send("datagram cut off", unhex("40" + vector)[:5], owner)
		send("datagram cut off in a long header", long(0xe0, quic1, unhex(vector))[:10], owner)
		return owner
	})
}

// TestServerIDsThatChange: IDs lead where the last state says, for as long as the
// backend keeps flows.
func TestServerIDsThatChange(t *testing.T) {
	c := newQUICCrowd(t)
	f, w := ipv6(), ways()[4]
	people := c.of(f, w)
	apply := func(change func(b *forwarding.Backend, n int)) {
		state := c.named(isQUIC)
		pool := state.Pool(people[0].pool())
		for i := range pool.Backends {
			n := slices.IndexFunc(people, func(s service) bool { return s.backend == pool.Backends[i].ID.Address })
			change(&pool.Backends[i], n)
		}
		applyTo(t, c.Plane, state)
	}
	p := f.packet(udp{from: 30000, to: w.port, data: short(0x40, unhex(vector))})
	owner, named := c.owner(f, w, hashOf(p)), people[vectorBackend]
	if owner.backend == named.backend {
		t.Fatal("the flow is the backend's anyway")
	}
	for _, step := range []struct {
		name   string
		change func(b *forwarding.Backend, n int)
		want   service
	}{
		{"as it was", func(*forwarding.Backend, int) {}, named},
		{"it drains", func(b *forwarding.Backend, n int) { b.Takes = n != vectorBackend }, named},
		{"it keeps no flows", func(b *forwarding.Backend, n int) { b.Takes, b.Keeps = n != vectorBackend, n != vectorBackend }, owner},
		{"it is back", func(*forwarding.Backend, int) {}, named},
		{"it has another ID", func(b *forwarding.Backend, n int) {
			if n == vectorBackend {
				b.ServerIDs[0].ID = "abc"
			}
		}, owner},
		{"another one has it", func(b *forwarding.Backend, n int) {
			switch n {
			case vectorBackend:
				b.ServerIDs = nil
			case 7:
				b.ServerIDs = idsOf(named, vectorBackend)
			}
		}, people[7]},
		{"nobody has any", func(b *forwarding.Backend, _ int) { b.ServerIDs = nil }, owner},
		{"IDs are longer", func(b *forwarding.Backend, n int) {
			b.ServerIDs = []model.ServerID{{Config: 0, ID: "four" + string(byte(n))}}
		}, owner},
		{"all is as before", func(*forwarding.Backend, int) {}, named},
	} {
		apply(step.change)
		c.must(step.name, c.reaches(p, step.want, hashOf(p)))
	}
	if n := len(c.serverIDs); n != 3*crowdBackends*len(families())*len(ways()) {
		t.Errorf("%d server IDs are known", n)
	}
}

// TestServerIDsOfThePriorPool: connections of the pool that a VIP has left are still
// named by their IDs, until it settles.
func TestServerIDsOfThePriorPool(t *testing.T) {
	c := newQUICCrowd(t)
	f, l2, other := ipv4(), ways()[0], ways()[1]
	moved := func(v *model.VIP) {
		isQUIC(v)
		if v.Protocol == model.UDP && v.Endpoints[0] == (model.Endpoint{Address: f.vip, Ports: model.Port(l2.port)}) {
			v.Pool = c.of(f, other)[0].pool()
		}
	}
	p := f.packet(nil)
	to := func(s service, n int) packet {
		p.payload = udp{from: 31000, to: l2.port, data: short(0x40, cid(idsOf(s, n)[1]))}
		return p
	}
	// In the mode of the VIP, whatever the backend's was.
	at := func(s service) service { s.mode = model.ModeDSRL2; return s }
	before, after := c.of(f, l2)[3], c.of(f, other)[4]
	c.must("before", c.reaches(to(before, 3), before, 0))
	applyTo(t, c.Plane, c.named(moved))
	for range 2 {
		c.must("prior pool's", c.reaches(to(before, 3), before, 0))
		c.must("pool's", c.reaches(to(after, 4), at(after), 0))
	}
	now := flux.Tick(0)
	for range 5 {
		now += 1000
		c.SetClock(now)
		for done := false; !done; {
			var err error
			done, err = c.Sweep(1 << 14)
			c.must("sweep", err)
		}
	}
	p = to(before, 3)
	owner := c.of(f, other)[Slot(hashOf(p), crowdSlots)%crowdBackends]
	c.must("prior pool's after all has settled", c.reaches(p, at(owner), 0))
	c.must("pool's", c.reaches(to(after, 4), at(after), 0))
}

// TestServerIDsSurviveARestart: a daemon that starts anew knows them.
func TestServerIDsSurviveARestart(t *testing.T) {
	c := newQUICCrowd(t)
	path, limits := bpffs(t), withRoom(Limits{VIPs: 64, Pools: 16, Backends: 1 << 12, Slots: 1 << 13})
	f, w := ipv4(), ways()[0]
	p := f.packet(udp{from: 30000, to: w.port, data: long(0xe0, quic1, unhex(vector))})
	open := func(limits Limits) {
		var err error
		c.Plane, err = Open(path, limits, testOptions())
		c.must("open", err)
	}
	open(limits)
	applyTo(t, c.Plane, c.named(isQUIC))
	for _, slots := range []uint32{1 << 13, 1 << 14} {
		c.must("close", c.Close())
		limits.Slots = slots
		open(limits)
		if slots == 1<<13 {
			c.must("adopted", c.reaches(p, c.of(f, w)[vectorBackend], 0))
		}
		applyTo(t, c.Plane, c.named(isQUIC))
		c.must("applied", c.reaches(p, c.of(f, w)[vectorBackend], 0))
		if n := len(c.serverIDs); n != 3*crowdBackends*len(families())*len(ways()) {
			t.Errorf("%d server IDs are known", n)
		}
	}
	c.must("close", c.Close())
}

// TestNamedFlowsInFlux: what names its backend is remembered where others might
// depend on it, and stays known by its address when it names nobody any more.
func TestNamedFlowsInFlux(t *testing.T) {
	c := newQUICCrowd(t)
	f, w := ipv4(), ways()[0]
	people := c.of(f, w)
	for n, from := range []uint16{20001, 20002, 20003, 20004} {
		p := f.packet(udp{from: from, to: w.port, data: short(0x40, cid(idsOf(people[n], n)[0]))})
		p.source = netip.MustParseAddr("203.0.113.99")
		before := c.counted(lbFlowEventFLOW_REMEMBERED)
		c.must("named", c.reaches(p, people[n], 0))
		if got := c.counted(lbFlowEventFLOW_REMEMBERED) - before; got != 1 {
			t.Errorf("flow that is not its owner's: %d entries", got)
		}
		home := c.owner(f, w, hashOf(p))
		i := slices.IndexFunc(people, func(s service) bool { return s.backend == home.backend })
		p.payload = udp{from: from + 100, to: w.port, data: short(0x40, cid(idsOf(home, i)[0]))}
		for c.owner(f, w, hashOf(p)).backend != home.backend {
			d := p.payload.(udp)
			d.from++
			p.payload = d
		}
		before = c.counted(lbFlowEventFLOW_REMEMBERED)
		c.must("at home", c.reaches(p, home, 0))
		if c.counted(lbFlowEventFLOW_REMEMBERED) != before {
			t.Error("a settled flow of its owner has left a trace")
		}
	}
}

// TestErrorsAboutNamedFlows: what an error quotes has no connection ID of the server's,
// and yet it reaches the backend that the flow's own packets name. It is itself no sign
// of a flow.
func TestErrorsAboutNamedFlows(t *testing.T) {
	c := newQUICCrowd(t)
	c.everyDatagram(func([]service) []byte { return short(0x40, unhex(vector)) }, func(f family, w way, p packet) service {
		named, owner := c.of(f, w)[vectorBackend], c.owner(f, w, hashOf(p))
		about := f.reports(f.anyError(), answeredBy(p), 200)
		before := c.counted(lbFlowEventFLOW_REMEMBERED)
		c.must("error before", c.reaches(about, owner, hashOf(p)))
		if c.counted(lbFlowEventFLOW_REMEMBERED) != before {
			t.Error("an error has left a trace")
		}
		c.must("named", c.reaches(p, named, hashOf(p)))
		c.must("error", c.reaches(about, named, hashOf(p)))
		return owner
	})
}

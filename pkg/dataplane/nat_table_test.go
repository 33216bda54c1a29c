package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// fewestNATRows is how many rows the packet table of VIPs that translate must have.
const fewestNATRows = 6000

// natSetting is a lab of VIPs that translate and what rows it has.
type natSetting struct {
	name    string
	options Options
	arrange func(*natTable)
	topics  []func(*natTable, family) []row
}

// natTable is a lab in which rows are made: of a conversation that has begun they know
// where the backend sees it come from.
type natTable struct {
	*natLab
	testing.TB
	services []natServed
	// link is the index of the interface "out".
	link int
	// last is the port of the latest client, id that of the latest fragmented packet.
	last uint16
	id   uint32
}

// natServed is a service with what is special about it.
type natServed struct {
	natService
	down, reset, unresolved, eager, quic bool
	mss                                  uint16
}

// The names of what is special.
const (
	kindTagged     = "tagged"
	kindOut        = "other interface"
	kindJumbo      = "jumbo"
	kindDown       = "down"
	kindReset      = "reset"
	kindUnresolved = "unresolved"
	kindNoLink     = "no such interface"
	kindEager      = "eager"
	kindClamped    = "clamped"
	kindQUIC       = "quic"
)

// natKinds change a service that has nothing special.
func natKinds(out int) map[string]func(*natServed) {
	return map[string]func(*natServed){
		kindTagged:     func(s *natServed) { s.path.VLAN = vlanOut },
		kindOut:        func(s *natServed) { s.path.Link = out },
		kindJumbo:      func(s *natServed) { s.path.MTU = jumbo },
		kindDown:       func(s *natServed) { s.down = true },
		kindReset:      func(s *natServed) { s.down, s.reset = true, true },
		kindUnresolved: func(s *natServed) { s.unresolved = true },
		kindNoLink:     func(s *natServed) { s.path.Link = missingIF },
		kindEager:      func(s *natServed) { s.eager = true },
		kindClamped:    func(s *natServed) { s.mss = grantedMSS },
		kindQUIC:       func(s *natServed) { s.quic = true },
	}
}

// natModes are the ways to translate, by name.
func (f family) natModes() []string {
	return []string{"nat", "fullnat", "fullnat to " + f.other().name}
}

func (f family) other() family {
	if f.ipv6 {
		return ipv4()
	}
	return ipv6()
}

// servedServices are those of the NAT lab and, of each mode and family, one of each kind.
func servedServices(out int) []natServed {
	var all []natServed
	for _, s := range natServices() {
		all = append(all, natServed{natService: s})
	}
	kinds := natKinds(out)
	for i, f := range families() {
		n := 10
		for _, mode := range f.natModes() {
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				n++
				s := natServed{natService: natNamed(f.name + " " + mode)}
				to := f
				if s.across() {
					to = f.other()
				}
				s.name += " " + kind
				s.address, s.path.Destination = f.natAddress(n), mac{0x02, 0, 0, byte(i), 0x20, byte(n)}
				s.backend.Address = to.host(uint16(n), 20+i)
				kinds[kind](&s)
				all = append(all, s)
			}
		}
	}
	return all
}

func natNamed(name string) natService {
	for _, s := range natServices() {
		if s.name == name {
			return s
		}
	}
	panic("no service is called " + name)
}

// servedState is the state of services.
func servedState(all []natServed) forwarding.State {
	plain := make([]natService, len(all))
	special := map[string]natServed{}
	for i, s := range all {
		plain[i], special[s.name] = s.natService, s
	}
	state := natState(plain)
	for i, pool := range state.Pools {
		s := special[pool.Name]
		if s.down {
			state.Pools[i] = settledPool(pool.Name, 251)
			state.Pools[i].Reset = s.reset
		}
		if s.unresolved {
			delete(state.Paths, s.backend.Address)
		}
		if s.quic {
			state.Pools[i].Backends[0].ServerIDs = serverIDs(0)
		}
	}
	for i := range state.VIPs {
		v := &state.VIPs[i]
		s := special[v.Pool]
		if s.eager {
			v.Fragments = model.FragmentsHash
		}
		if v.Protocol == model.TCP {
			v.MSS = s.mss
		} else {
			v.QUIC = s.quic
		}
	}
	return state
}

func newNATTable(t testing.TB, setting natSetting) *natTable {
	t.Helper()
	l := &natTable{natLab: &natLab{lab: &lab{space: newSpace(t)}, sources: sourcesOf(setting.options)}, TB: t, last: 20000}
	l.routes(t)
	l.Plane = loadedWith(t, smallLimits(), setting.options)
	l.serve(t)
	link, err := l.LinkByName("out")
	if err != nil {
		t.Fatal(err)
	}
	l.link = link.Attrs().Index
	l.services = servedServices(l.link)
	if err := l.do(func() error {
		return errors.Join(l.sendsThrough(uint32(l.link)), l.Apply(servedState(l.services)))
	}); err != nil {
		t.Fatal(err)
	}
	if setting.arrange != nil {
		setting.arrange(l)
	}
	return l
}

// at is a service of a family: of a mode, and of a kind if it is not "".
func (t *natTable) at(f family, mode, kind string) natServed {
	name := f.name + " " + mode
	if kind != "" {
		name += " " + kind
	}
	for _, s := range t.services {
		if s.name == name {
			return s
		}
	}
	panic("no service is called " + name)
}

// every are the services of a family and kind, one for each way to translate.
func (t *natTable) every(f family, kind string) []natServed {
	var all []natServed
	for _, mode := range f.natModes() {
		all = append(all, t.at(f, mode, kind))
	}
	return all
}

// any are those with nothing special, also those of any port or a range.
func (t *natTable) any(f family) []natServed {
	all := t.every(f, "")
	return append(all, t.at(f, "nat any", ""), t.at(f, "nat range", ""), t.at(f, "fullnat any", ""))
}

// across reports whether backends are of the other IP version.
func (s natService) across() bool { return s.backend.Address.Is6() != s.family.ipv6 }

// talk is a conversation as its client sees it: with how its packets arrive.
type talk struct {
	conversation
	tags    []tag
	ingress int
}

// newTalk has not begun yet.
func (t *natTable) newTalk(s natServed, protocol model.Protocol) talk {
	t.last++
	c := conversation{natService: s.natService, client: t.last, vip: s.port(), protocol: protocol}
	c.source = netip.AddrPortFrom(s.family.client, t.last)
	return talk{conversation: c, ingress: loopback}
}

// talk has begun.
func (t *natTable) talk(s natServed, protocol model.Protocol) talk {
	t.Helper()
	c := t.newTalk(s, protocol)
	t.open(&c)
	return c
}

// open sends the first packet, and the backend's answer.
func (t *natTable) open(c *talk) {
	t.Helper()
	verdict, out := t.send(c, c.request(c.carried(c.client, c.vip, flagSYN, nil)))
	if verdict != xdpTX && verdict != xdpRedirect {
		t.Fatalf("%s: verdict %d of the first packet", c.name, verdict)
	}
	if c.mode != model.ModeFullNAT {
		return
	}
	c.source = t.sourceIn(out)
	t.through(t, c.response(c.carried(c.listens(), c.source.Port(), flagSYN|flagACK, nil)).bytes())
}

func (t *natTable) send(c *talk, p packet) (uint32, []byte) {
	t.Helper()
	frame := p.bytes()
	verdict, out, err := t.run(ebpf.RunOptions{Data: frame, Context: xdpContext{DataEnd: uint32(len(frame)), Ingress: uint32(c.ingress)}})
	if err != nil {
		t.Fatal(err)
	}
	return verdict, out
}

// sourceIn is where a frame to a backend says that it is from.
func (t *natTable) sourceIn(frame []byte) netip.AddrPort {
	t.Helper()
	if binary.BigEndian.Uint16(frame[12:]) == etherVLAN {
		frame = slices.Concat(frame[:12], frame[16:])
	}
	six := binary.BigEndian.Uint16(frame[12:]) == etherIPv6
	const behind = headerEthernet + headerIPv6
	if six && frame[headerEthernet+6] == fragmentHeader(0, true).kind {
		frame = slices.Concat(frame[:behind], frame[behind+8:])
	}
	source := sourceOf(frame, six)
	if _, ours := t.sources.number(source.Addr()); !ours || !t.sources.Ports.Contains(source.Port()) {
		t.Errorf("a connection comes from %s", source)
	}
	return source
}

func (c talk) key() BackendKey { return BackendKey{c.name, c.backend} }

// request is a packet of the client's.
func (c talk) request(carried payload) packet {
	p := c.family.packet(carried)
	p.destination, p.tags = c.address, c.tags
	return p
}

// response is a packet of the backend's.
func (c talk) response(carried payload) packet {
	return packet{
		to: balancerMAC(), from: c.path.Destination, source: c.backend.Address, destination: c.source.Addr(),
		ttl: 64, payload: carried,
	}
}

// ask and answer are such packets of the talk's protocol.
func (c talk) ask(flags uint8, data []byte) packet {
	return c.request(c.carried(c.client, c.vip, flags, data))
}
func (c talk) answer(flags uint8, data []byte) packet {
	return c.response(c.carried(c.listens(), c.source.Port(), flags, data))
}

// withPorts is a payload with other ports.
func withPorts(p payload, from, to uint16) payload {
	switch carried := p.(type) {
	case tcp:
		carried.from, carried.to = from, to
		return carried
	case udp:
		carried.from, carried.to = from, to
		return carried
	}
	return p
}

// asked is a packet of the client's as the backend gets it.
func (c talk) asked(p packet) packet {
	path := c.path
	p = c.crossed(p)
	p.to, p.from, p.tags = path.Destination, path.Source, nil
	if path.VLAN != 0 {
		p.tags = []tag{{etherVLAN, path.VLAN}}
	}
	p.source, p.destination = c.source.Addr(), c.backend.Address
	p.payload = withPorts(p.payload, c.source.Port(), c.listens())
	return p
}

// answered is a packet of the backend's as the client gets it.
func (t *natTable) answered(c talk, p packet) packet {
	p = c.crossed(p)
	p.to, p.from, p.tags = clientMAC(), balancerMAC(), c.tags
	if c.mode == model.ModeNAT {
		p.to, p.from, p.tags = mac(routerMAC()), t.out, nil
	}
	p.source, p.destination = c.address, c.family.client
	p.payload = withPorts(p.payload, c.vip, c.client)
	return p
}

// crossed is a packet one hop further, in the other IP version if the service's
// backends have that (RFC 7915).
func (c talk) crossed(p packet) packet {
	p.ttl--
	if !c.across() {
		return p
	}
	p.options, p.extensions, p.id, p.label, p.fragment = nil, nil, 0, 0, 0x4000
	if d, ok := p.payload.(udp); ok && !p.ipv6() {
		d.unsummed = false
		p.payload = d
	}
	return p
}

// row names are those of the service and what is special.
func (c talk) row(name string) string {
	return fmt.Sprintf("%s/%s, %s", name, c.name, c.protocol)
}

// counted is a row of which the VIP takes notice, and no backend.
func (c talk) counted(name, reason string, in packet) row {
	r := row{name: c.row(name), in: in.bytes(), reason: reason, vip: c.natService.vip(c.protocol), size: len(in.ip())}
	if segment, ok := in.payload.(tcp); ok {
		r.opener = segment.flags&(flagSYN|flagACK) == flagSYN
	}
	return c.arriving(r)
}

// arriving has the frame come where the client's do.
func (c talk) arriving(r row) row {
	if c.ingress == loopback {
		return r
	}
	return withMetadata(r, 0, c.ingress)
}

// forth is a row whose packet reaches the backend.
func (c talk) forth(name string, in packet) row {
	r := c.counted(name, "tx_forwarded", in)
	if c.path.Link != c.ingress {
		r.reason = "redirect_forwarded"
	}
	r.out, r.backend = c.asked(in).bytes(), c.key()
	return r
}

// first is such a row of a packet that begins a connection.
func (t *natTable) first(name string, c talk, in packet) row {
	r := c.forth(name, in)
	if c.mode == model.ModeFullNAT {
		r.opener = true
		r.expect = func(out []byte) []byte {
			c.source = t.sourceIn(out)
			return c.asked(in).bytes()
		}
	}
	return r
}

// back is a row whose packet reaches the client.
func (t *natTable) back(name string, c talk, in packet) row {
	return t.backAs(name, c, in, t.answered(c, in))
}

func (t *natTable) backAs(name string, c talk, in, out packet) row {
	r := row{name: c.row(name), in: in.bytes(), out: out.bytes(), reason: "tx_reply"}
	if c.mode == model.ModeNAT || c.ingress != loopback {
		r.reason = "redirect_reply"
	}
	return r
}

// unnoticed is a row of which no VIP takes notice.
func (c talk) unnoticed(name, reason string, in packet) row {
	return row{name: c.row(name), in: in.bytes(), reason: reason}
}

// natRows are all rows, each to be checked in its own lab, in order.
func natRows(t testing.TB) (rows []row, labs []*natTable) {
	t.Helper()
	for _, setting := range natSettings() {
		l := newNATTable(t, setting)
		for _, f := range families() {
			for _, topic := range setting.topics {
				for _, r := range topic(l, f) {
					r.name = setting.name + r.name
					rows, labs = append(rows, r), append(labs, l)
				}
			}
		}
	}
	return rows, labs
}

// TestNATPackets sends every row of the packet table of VIPs that translate.
func TestNATPackets(t *testing.T) {
	t.Parallel()
	rows, labs := natRows(t)
	if len(rows) < fewestNATRows {
		t.Errorf("%d rows, at least %d expected", len(rows), fewestNATRows)
	}
	seen := map[string]bool{}
	for i, r := range rows {
		if seen[r.name] {
			t.Errorf("two rows are called %q", r.name)
		}
		seen[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			if err := labs[i].check(r); err != nil {
				t.Error(err)
			}
		})
	}
	t.Logf("%d rows", len(rows))
}

// TestNATPacketTableNotices is the negative control of the table: rows that expect
// anything but what happens must fail.
func TestNATPacketTableNotices(t *testing.T) {
	t.Parallel()
	l := newNATTable(t, natSetting{options: tableOptions()})
	for _, f := range families() {
		for _, s := range l.every(f, "") {
			c := l.talk(s, model.TCP)
			for name, good := range map[string]row{
				"forth": c.forth("good", c.ask(flagACK, text(5))), "back": l.back("good", c, c.answer(flagACK, text(5))),
				"error": l.reports(c, 40)[0].row("good", 30), "error back": l.reports(c, 40)[1].row("good", 30),
			} {
				if err := l.check(good); err != nil {
					t.Fatalf("%s, %s: the row that the others are made from fails: %v", s.name, name, err)
				}
				for what, spoil := range spoiltRows(l, s, good) {
					r := good
					if spoil(&r); l.check(r) == nil {
						t.Errorf("%s, %s: %s: not noticed", s.name, name, what)
					}
				}
			}
			fresh := l.newTalk(s, model.TCP)
			first := l.first("good", fresh, fresh.ask(flagSYN, text(5)))
			if first.opener = false; l.check(first) == nil {
				t.Errorf("%s: not an opener: not noticed", s.name)
			}
		}
	}
}

// spoiltRows spoil a good row, by what is spoilt.
func spoiltRows(l *natTable, s natServed, good row) map[string]func(*row) {
	all := map[string]func(*row){
		"a byte longer":      func(r *row) { r.out = append(set(r.out, 0), 0) },
		"a byte shorter":     func(r *row) { r.out = r.out[:len(r.out)-1] },
		"untouched":          func(r *row) { r.out = nil },
		"other verdict":      func(r *row) { r.reason = "pass_reply" },
		"other reason":       func(r *row) { r.reason = "tx_echo_reply" },
		"other VIP":          func(r *row) { r.vip = s.vip(model.UDP) },
		"unknown VIP":        func(r *row) { r.vip = "unknown" },
		"other backend":      func(r *row) { r.backend = BackendKey{s.name + " out", s.backend} },
		"one of another":     func(r *row) { r.backend = l.newTalk(l.at(ipv4(), "nat any", ""), model.TCP).key() },
		"what it expects":    func(r *row) { r.expect = func(out []byte) []byte { return set(out, 0, out[0]^1) } },
		"what it arranges":   func(r *row) { r.arrange = func() error { return errors.New("no") } },
		"counted by the VIP": func(r *row) { r.size++; r.vip = s.vip(model.TCP) },
	}
	for at := range good.out {
		all[fmt.Sprintf("byte %d", at)] = func(r *row) { r.out = set(r.out, at, r.out[at]^1) }
	}
	return all
}

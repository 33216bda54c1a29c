package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// mutator makes trials out of seeds: a run's number and the seed of the whole say
// all about one.
type mutator struct {
	*rand.Rand
	seed   uint64
	seeds  []trial
	splits bool
	links  []int
	// ports and addresses are what packets are sent to.
	ports     []uint16
	addresses []netip.Addr
	// targets are the endpoints of VIPs.
	targets []model.Endpoint
}

func newMutator(l *fuzzLab, seed uint64) *mutator {
	m := &mutator{seed: seed, seeds: l.seeds, splits: l.splits, links: l.oracle.links}
	for _, all := range l.oracle.listeners {
		for _, l := range all {
			m.targets = append(m.targets, l.Endpoint)
			m.ports = append(m.ports, l.Ports.First, l.Ports.Last)
		}
	}
	for address := range l.oracle.addresses {
		m.addresses = append(m.addresses, address)
	}
	for _, f := range families() {
		m.addresses = append(m.addresses, f.foreign, f.client, netip.AddrFrom16(f.vip.As16()))
	}
	slices.Sort(m.ports)
	slices.SortFunc(m.addresses, netip.Addr.Compare)
	slices.SortFunc(m.targets, model.Endpoint.Compare)
	m.ports = append(slices.Compact(m.ports), portNone)
	return m
}

// trial is the nth one.
func (m *mutator) trial(n uint64) trial {
	m.Rand = rand.New(rand.NewPCG(m.seed, n))
	t := m.seeds[m.IntN(len(m.seeds))]
	t.number = n
	switch t.frame = slices.Clone(t.frame); m.IntN(16) {
	case 0:
		t.frame, t.origin = m.noise(), "noise"
	case 1: // as it is
	default:
		for range 1 + m.IntN(4) {
			t.frame = m.mutate(t.frame)
		}
		if m.oneIn(2) {
			t.frame = m.aim(t.frame)
		}
		if m.oneIn(2) {
			t.frame = repairSums(repairLengths(t.frame))
		}
	}
	for len(t.frame) < headerEthernet {
		t.frame = append(t.frame, 0)
	}
	t.frame = t.frame[:min(len(t.frame), longestFrame)]
	m.handOver(&t)
	return t
}

// handOver chooses what the driver does with the frame.
func (m *mutator) handOver(t *trial) {
	if m.oneIn(16) {
		t.metadata = 4 * m.IntN(mostMetadata/4+1)
	}
	if m.oneIn(8) {
		t.ingress = pick(m, m.links)
	}
	t.near = min(len(t.frame), firstBuffer)
	if m.splits && m.oneIn(8) {
		t.near = min(t.near, m.near(headerEthernet, m.boundary(t.frame)))
	}
}

func (m *mutator) oneIn(n int) bool { return m.IntN(n) == 0 }

func pick[T any](m *mutator, from []T) T { return from[m.IntN(len(from))] }

// near is a number about another one, but not less than the least.
func (m *mutator) near(least, about int) int { return max(least, about+m.IntN(9)-4) }

// word is a 16-bit number of the kind that programs stumble over.
func (m *mutator) word() uint16 {
	return pick(m, []uint16{0, 1, 7, 8, 0x1f, 0x20, 0x2000, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xfffe, 0xffff, uint16(m.Uint32())})
}

// boundary is an offset at which something begins or ends.
func (m *mutator) boundary(frame []byte) int {
	a := dissect(frame, len(frame))
	return min(len(frame), pick(m, []int{
		headerEthernet, a.l3, a.l3 + headerIPv4, a.l3 + headerIPv6, a.l4, a.l4 + headerUDP, a.l4 + headerTCP, max(a.end, 0), len(frame), m.IntN(len(frame) + 1),
	}))
}

// noise is random bytes, most of which claim to be IP.
func (m *mutator) noise() []byte {
	b := make([]byte, headerEthernet+m.IntN(3000))
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	if m.oneIn(4) || len(b) < headerEthernet+headerIPv6 {
		return b
	}
	destination := pick(m, m.addresses)
	if at := b[headerEthernet:]; destination.Is4() {
		binary.BigEndian.PutUint16(b[12:], etherIPv4)
		at[0] = 0x40 | at[0]&15
		at[9] = pick(m, []byte{numberTCP, numberUDP, numberICMP, at[9]})
		copy(at[16:], destination.AsSlice())
	} else {
		binary.BigEndian.PutUint16(b[12:], etherIPv6)
		at[0] = 0x60 | at[0]&15
		at[6] = pick(m, []byte{numberTCP, numberUDP, numberICMPv6, numberOptions, numberFragment, at[6]})
		copy(at[24:], destination.AsSlice())
	}
	if m.oneIn(2) {
		return repairLengths(b)
	}
	return b
}

// mutation changes a frame, whose anatomy it is given, in place or for another one.
type mutation func(*mutator, []byte, anatomy) []byte

// anywhere are mutations that need no header, inPacket those that need one of IP,
// inTransport those that need that of a transport.
func anywhere() []mutation {
	return []mutation{flipBit, setByte, cutFrame, padFrame, splice, pushTag, popTag, sendToGroup}
}
func inPacket() []mutation {
	return []mutation{
		setHops, setLength16, setVersion, setFragment, setProtocol, setAddress, setAddress, insertOptions,
		insertExtension, growPacket, otherTransport, quoteInError,
	}
}
func inTransport() []mutation {
	return []mutation{setPort, setPort, setFlags, setTransportByte, setTransportWord}
}

func (m *mutator) mutate(frame []byte) []byte {
	if len(frame) < headerEthernet {
		return append(frame, make([]byte, headerEthernet)...)
	}
	a := dissect(frame, len(frame))
	all := anywhere()
	if a.addressed() {
		all = append(all, inPacket()...)
	}
	if a.flaws == 0 && a.l4 != 0 && a.part != laterFragment && a.end-a.l4 >= headerUDP {
		all = append(all, inTransport()...)
	}
	return pick(m, all)(m, frame, a)
}

// aim sends a packet to a VIP, if it can be told how.
func (m *mutator) aim(frame []byte) []byte {
	if len(frame) < headerEthernet {
		return frame
	}
	a := dissect(frame, len(frame))
	if !a.addressed() {
		return frame
	}
	target := pick(m, m.targets)
	for target.Address.Is6() != a.ipv6 {
		target = pick(m, m.targets)
	}
	at := a.l3 + 16
	if a.ipv6 {
		at = a.l3 + 24
	}
	copy(frame[at:], target.Address.AsSlice())
	if a.carriesFlow() && !target.Ports.Any() {
		binary.BigEndian.PutUint16(frame[a.l4+2:], target.Ports.First+uint16(m.IntN(int(target.Ports.Last-target.Ports.First)+1)))
	}
	return frame
}

func flipBit(m *mutator, b []byte, _ anatomy) []byte {
	b[m.IntN(min(len(b), 128))] ^= 1 << m.IntN(8)
	return b
}

func setByte(m *mutator, b []byte, _ anatomy) []byte {
	b[m.IntN(len(b))] = byte(m.word())
	return b
}

func cutFrame(m *mutator, b []byte, _ anatomy) []byte {
	return b[:min(len(b), m.near(headerEthernet, m.boundary(b)))]
}

func padFrame(m *mutator, b []byte, _ anatomy) []byte { return append(b, text(1+m.IntN(64))...) }

// splice has the head of one frame before the tail of another.
func splice(m *mutator, b []byte, _ anatomy) []byte {
	other := pick(m, m.seeds).frame
	return slices.Concat(b[:m.boundary(b)], other[m.boundary(other):])
}

func sendToGroup(_ *mutator, b []byte, _ anatomy) []byte {
	b[0] |= 1
	return b
}

func pushTag(m *mutator, b []byte, _ anatomy) []byte {
	tag := binary.BigEndian.AppendUint16(nil, pick(m, []uint16{etherVLAN, etherQinQ}))
	return slices.Insert(b, headerEthernet-2, binary.BigEndian.AppendUint16(tag, m.word())...)
}

func popTag(_ *mutator, b []byte, a anatomy) []byte {
	if a.l3 < headerEthernet+headerTag {
		return b
	}
	return slices.Delete(b, headerEthernet-2, headerEthernet-2+headerTag)
}

func setHops(m *mutator, b []byte, a anatomy) []byte {
	at := a.l3 + 8
	if a.ipv6 {
		at = a.l3 + 7
	}
	b[at] = pick(m, []byte{0, 1, 2, 255, byte(m.Uint32())})
	return b
}

// setLength16 has the IP header claim another length, or one that is a little off.
func setLength16(m *mutator, b []byte, a anatomy) []byte {
	at := a.l3 + 2
	if a.ipv6 {
		at = a.l3 + 4
	}
	n := m.word()
	if m.oneIn(2) {
		n = binary.BigEndian.Uint16(b[at:]) + uint16(m.IntN(65)-32)
	}
	binary.BigEndian.PutUint16(b[at:], n)
	return b
}

// setVersion exchanges a nibble of the first byte: version, or length of the header.
func setVersion(m *mutator, b []byte, a anatomy) []byte {
	shift := 4 * m.IntN(2)
	b[a.l3] = b[a.l3]&^(15<<shift) | byte(m.IntN(16))<<shift
	return b
}

func setFragment(m *mutator, b []byte, a anatomy) []byte {
	bits := pick(m, []uint16{0x2000, 0x4000, 0x8000, 1, 185, 0x20b9, 0x1fff, 0x3fff, m.word()})
	if !a.ipv6 {
		binary.BigEndian.PutUint16(b[a.l3+6:], bits)
		return b
	}
	return insertHeader(b, a, fragmentHeader(bits&0x1fff, bits&0x2000 != 0))
}

func setProtocol(m *mutator, b []byte, a anatomy) []byte {
	at := a.l3 + 9
	if a.ipv6 {
		at = a.l3 + 6
	}
	b[at] = pick(m, []byte{
		numberHopByHop, numberICMP, 4, numberTCP, numberUDP, 41, numberRouting, numberFragment, 50, numberAH, numberICMPv6, 59, numberOptions, 132, byte(m.Uint32()),
	})
	return b
}

// setAddress exchanges the destination, or now and then the source.
func setAddress(m *mutator, b []byte, a anatomy) []byte {
	address := pick(m, m.addresses)
	for address.Is6() != a.ipv6 {
		address = pick(m, m.addresses)
	}
	at := a.l3 + 16
	if a.ipv6 {
		at = a.l3 + 24
	}
	if m.oneIn(4) {
		at -= len(address.AsSlice())
	}
	copy(b[at:], address.AsSlice())
	return b
}

// insertOptions lengthens an IPv4 header.
func insertOptions(m *mutator, b []byte, a anatomy) []byte {
	room := 15 - int(b[a.l3]&15)
	if a.ipv6 || room == 0 {
		return b
	}
	words := 1 + m.IntN(room)
	b[a.l3] += byte(words)
	b = slices.Insert(b, a.l3+headerIPv4, slices.Repeat([]byte{1}, 4*words)...)
	return addLength(b, a, 4*words)
}

func insertExtension(m *mutator, b []byte, a anatomy) []byte {
	if !a.ipv6 {
		return b
	}
	chain := slices.Concat(extensions()[m.IntN(len(extensions()))].chain, []extension{fragmentHeader(0, false), options(numberHopByHop, 1+m.IntN(4))})
	return insertHeader(b, a, pick(m, chain))
}

// insertHeader puts an extension header behind that of IPv6.
func insertHeader(b []byte, a anatomy, e extension) []byte {
	body := slices.Clone(e.body)
	body[0], b[a.l3+6] = b[a.l3+6], e.kind
	b = slices.Insert(b, a.l3+headerIPv6, body...)
	return addLength(b, a, len(body))
}

// addLength has the IP header claim so much more.
func addLength(b []byte, a anatomy, n int) []byte {
	at := a.l3 + 2
	if a.ipv6 {
		at = a.l3 + 4
	}
	binary.BigEndian.PutUint16(b[at:], binary.BigEndian.Uint16(b[at:])+uint16(n))
	return b
}

// growPacket makes the packet large, up to several buffers.
func growPacket(m *mutator, b []byte, a anatomy) []byte {
	n := 1 + m.IntN(pick(m, []int{1500, 3000, longestFrame}))
	if len(b)+n > longestFrame {
		return b
	}
	return addLength(append(b, text(n)...), a, n)
}

// otherTransport carries what another seed carries.
func otherTransport(m *mutator, b []byte, a anatomy) []byte {
	seed := pick(m, m.seeds).frame
	other := dissect(seed, len(seed))
	if a.flaws != 0 || other.flaws != 0 || other.l4 == 0 || other.l4 > other.end || a.l4 == 0 {
		return b
	}
	if a.ipv6 == other.ipv6 && a.l4 == a.l3+headerIPv6 || !a.ipv6 {
		at := a.l3 + 9
		if a.ipv6 {
			at = a.l3 + 6
		}
		b[at] = other.protocol
	}
	return repairLengths(slices.Concat(b[:a.l4], other.transport()))
}

// quoteInError makes an ICMP error about the packet, as if the VIP had sent it,
// from somebody on the way, to the VIP.
func quoteInError(m *mutator, b []byte, a anatomy) []byte {
	if a.flaws != 0 || a.l4 == 0 || a.part == laterFragment || a.end-a.l4 < headerUDP {
		return b
	}
	quoted := slices.Clone(a.ip())
	first, size := 12, 4
	kinds := []uint8{3, 4, 5, 11, 12}
	if a.ipv6 {
		first, size = 8, 16
		kinds = []uint8{1, 2, 3, 4}
	}
	exchange(quoted[first:], size)
	if a.carriesFlow() {
		exchange(quoted[a.l4-a.l3:], 2)
	}
	quoted = quoted[:min(len(quoted), m.near(0, pick(m, []int{a.l4 - a.l3, a.l4 - a.l3 + 8, 548, 1232, len(quoted)})))]
	f := families()[0]
	if a.ipv6 {
		f = families()[1]
	}
	message := icmp{kind: pick(m, kinds), code: uint8(m.IntN(8)), seq: m.word(), data: quoted}
	p := packet{to: balancerMAC(), from: clientMAC(), source: f.client, destination: a.destination, ttl: 64, payload: message}
	return p.bytes()
}

// exchange swaps two fields of a size that stand side by side.
func exchange(b []byte, size int) {
	first := slices.Clone(b[:size])
	copy(b, b[size:2*size])
	copy(b[size:], first)
}

func setPort(m *mutator, b []byte, a anatomy) []byte {
	at := a.l4 + 2
	if m.oneIn(4) {
		at = a.l4
	}
	binary.BigEndian.PutUint16(b[at:], pick(m, m.ports))
	return b
}

// setFlags exchanges flags, length of the header, or of the datagram, or ICMP's type.
func setFlags(m *mutator, b []byte, a anatomy) []byte {
	switch at := b[a.l4:]; a.protocol {
	case numberTCP:
		if m.oneIn(2) {
			at[13] = byte(m.Uint32())
		} else {
			at[12] = byte(m.IntN(16)) << 4
		}
	case numberUDP:
		binary.BigEndian.PutUint16(at[4:], binary.BigEndian.Uint16(at[4:])+uint16(m.IntN(33)-16))
	default:
		at[0] = pick(m, []byte{0, 1, 2, 3, 4, 8, 11, 12, 128, 129, byte(m.Uint32())})
	}
	return b
}

func setTransportByte(m *mutator, b []byte, a anatomy) []byte {
	b[a.l4+m.IntN(min(64, a.end-a.l4))] = byte(m.word())
	return b
}

func setTransportWord(m *mutator, b []byte, a anatomy) []byte {
	binary.BigEndian.PutUint16(b[a.l4+2*m.IntN(4):], m.word())
	return b
}

// repairLengths has IP and UDP headers say what the frame holds.
func repairLengths(b []byte) []byte {
	a := dissect(b, len(b))
	if !a.addressed() {
		return b
	}
	n := len(b) - a.l3
	if a.ipv6 {
		binary.BigEndian.PutUint16(b[a.l3+4:], uint16(n-headerIPv6))
	} else {
		binary.BigEndian.PutUint16(b[a.l3+2:], uint16(n))
	}
	if a = dissect(b, len(b)); a.protocol == numberUDP && a.l4 != 0 && a.part != laterFragment && a.l4+headerUDP <= len(b) && a.end-a.l4 >= headerUDP {
		binary.BigEndian.PutUint16(b[a.l4+4:], uint16(a.end-a.l4))
	}
	return b
}

// repairSums sets every checksum that can be told.
func repairSums(b []byte) []byte {
	a := dissect(b, len(b))
	if !a.addressed() || a.flaws != 0 || a.part == laterFragment {
		return b
	}
	if !a.ipv6 {
		setSum(b[a.l3:a.l4], 10, nil)
	}
	switch body := b[a.l4:a.end]; {
	case a.protocol == numberTCP:
		setSum(body, 16, pseudoHeader(a.source, a.destination, a.protocol, len(body)))
	case a.protocol == numberUDP:
		datagram := body[:min(len(body), int(binary.BigEndian.Uint16(body[4:])))]
		setSum(datagram, 6, pseudoHeader(a.source, a.destination, a.protocol, len(datagram)))
	case a.protocol == a.control() && a.ipv6:
		setSum(body, 2, pseudoHeader(a.source, a.destination, a.protocol, len(body)))
	case a.protocol == a.control():
		setSum(body, 2, nil)
	}
	return b
}

// setSum writes the checksum of a range that holds it, with what precedes it.
func setSum(b []byte, at int, before []byte) {
	b[at], b[at+1] = 0, 0
	binary.BigEndian.PutUint16(b[at:], ^onesSum(before, b))
}

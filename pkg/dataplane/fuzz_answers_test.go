package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// turnedLink is the link header with its addresses exchanged.
func (e *encounter) turnedLink() []byte {
	f := e.frame()
	return slices.Concat(f[6:12], f[:6], f[12:e.l3])
}

// echoFrame is the request as its reply (RFC 792, RFC 4443): turned round, of
// another type, and nothing else different.
func echoFrame(e *encounter, out []byte) (BackendKey, error) {
	want := slices.Concat(e.turnedLink(), e.frame()[e.l3:])
	if len(out) != len(want) {
		return BackendKey{}, fmt.Errorf("%d bytes, want %d", len(out), len(want))
	}
	first, kind := e.l3+12, byte(echoReply4)
	if e.ipv6 {
		first, kind = e.l3+8, echoReply6
	}
	copy(want[first:], slices.Concat(e.destination.AsSlice(), e.source.AsSlice()))
	want[e.l4] = kind
	copy(want[e.l4+2:e.l4+4], out[e.l4+2:])
	if err := e.sameButHops(out, want, e.l3, 64); err != nil {
		return BackendKey{}, err
	}
	// The pseudo header's sum is the same both ways.
	return BackendKey{}, sameSum("ICMP message", e.transport(), out[e.l4:e.end])
}

// resetFrame is the RST that answers the segment (RFC 9293, section 3.10.7.1).
func resetFrame(e *encounter, out []byte) (BackendKey, error) {
	answer := reset(packet{source: e.source, destination: e.destination, payload: e.segment()})
	return BackendKey{}, errors.Join(
		checkBytes(out, slices.Concat(e.turnedLink(), answer.ip())),
		wellFormed(out))
}

// How much of a packet an ICMP answer quotes at most, so that no host gets more
// than it must take: 576 bytes (RFC 1812, section 4.3.2.3), 1280 (RFC 4443, 2.4).
const (
	quoteIPv4 = 576 - headerIPv4 - headerUDP
	quoteIPv6 = leastMTU - headerIPv6 - headerUDP
	leastMTU  = 1280
)

// answerable: an ICMP error about it may be sent (RFC 1122, section 3.2.2; RFC 4443, 2.4e).
func answerable(e *encounter) bool {
	if e.isError() || e.part == laterFragment || toGroup(e) {
		return false
	}
	return ofHost(e.source)
}

// ofHost reports whether an address may be that of one host.
func ofHost(source netip.Addr) bool {
	if source.Is4() {
		first := source.As4()[0]
		return first != 0 && first != 127 && first < 224
	}
	return !source.IsUnspecified() && !source.IsLoopback() && !source.IsMulticast() && !source.Is4In6()
}

// unanswered: no answer is due, or there may have been too many of them.
func unanswered(e *encounter) bool {
	grows := headerIPv4 + headerUDP
	if e.ipv6 {
		grows = headerIPv6 + headerUDP
	}
	return !answerable(e) || e.options.ICMPRate != unlimited || e.metadata+grows > mostMetadata
}

func tooBigFrame(e *encounter, out []byte) (BackendKey, error) {
	var errs []error
	for _, c := range e.candidates {
		if !slices.Contains(e.fate(c), "drop_too_big") {
			continue
		}
		message := icmp{kind: 3, code: 4, seq: uint16(c.path.MTU - c.outerLength())}
		if e.ipv6 {
			message = icmp{kind: 2, seq: max(leastMTU, message.seq)}
		}
		err := e.tells(message, out)
		if err == nil {
			return BackendKey{}, nil
		}
		errs = append(errs, err)
	}
	return BackendKey{}, errors.Join(errs...)
}

func ttlExceededFrame(e *encounter, out []byte) (BackendKey, error) {
	message := icmp{kind: 11}
	if e.ipv6 {
		message.kind = 3
	}
	return BackendKey{}, e.tells(message, out)
}

// tells wants an ICMP error from the VIP to the client that quotes the packet.
func (e *encounter) tells(message icmp, out []byte) error {
	most := quoteIPv4
	if e.ipv6 {
		most = quoteIPv6
	}
	quote := min(e.length(), most)
	message.data = e.ip()[:quote]
	if at := len(out) - quote; at > 0 && e.isSYN() {
		// What was to be sent on may have been changed already.
		message.data = e.clamped(e.candidates[0], out[at:])[:quote]
		if bytes.Equal(out[at:], e.ip()[:quote]) {
			message.data = out[at:]
		}
	}
	answer := packet{source: e.destination, destination: e.source, ttl: 64, tos: 0xc0, fragment: 0x4000, payload: message}
	want := slices.Concat(e.turnedLink(), answer.ip())
	if at := len(want) - quote - headerUDP + 2; len(out) == len(want) && want[at] == 0xff && want[at+1] == 0xff && out[at] == 0 && out[at+1] == 0 {
		// Either zero is right.
		copy(want[at:], []byte{0, 0})
	}
	return errors.Join(checkBytes(out, want), wellFormed(out))
}

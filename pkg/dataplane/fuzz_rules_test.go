package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// rule is what must hold of a packet that leaves the program for a reason. A
// reason without a rule fails every run that ends there.
type rule struct {
	// when tells whether the packet may end there.
	when func(*encounter) bool
	// becomes checks the frame that leaves, and tells the backend that it goes to,
	// if it goes to one. It is nil where the frame is of no matter.
	becomes func(*encounter, []byte) (BackendKey, error)
}

func rules() map[string]rule {
	return map[string]rule{
		"pass_not_ip":            {notIP, untouchedFrame},
		"pass_not_vip":           {notServed, untouchedFrame},
		"tx_forwarded":           {maybe("tx_forwarded"), forwardedFrame},
		"redirect_forwarded":     {maybe("redirect_forwarded"), forwardedFrame},
		"tx_echo_reply":          {echoed, echoFrame},
		"tx_reset":               {resets, resetFrame},
		"tx_too_big":             {both(maybe("drop_too_big"), answerable), tooBigFrame},
		"tx_ttl_exceeded":        {both(maybe("drop_ttl_exceeded"), answerable), ttlExceededFrame},
		"drop_truncated":         {spoiltBy(truncated), nil},
		"drop_malformed":         {spoiltBy(contradicts), nil},
		"drop_tcp_flags":         {screenedFor("drop_tcp_flags"), nil},
		"drop_land":              {screenedFor("drop_land"), nil},
		"drop_bogus_source":      {screenedFor("drop_bogus_source"), nil},
		"drop_denied":            {refused("drop_denied"), nil},
		"drop_not_allowed":       {refused("drop_not_allowed"), nil},
		"drop_extension_headers": {spoiltBy(overlong), nil},
		"drop_fragment_early":    {early, nil},
		"drop_icmp_error":        {func(e *encounter) bool { return e.ours && e.isError() && !e.about }, nil},
		"drop_ttl_exceeded":      {both(maybe("drop_ttl_exceeded"), unanswered), nil},
		"drop_unresolved":        {maybe("drop_unresolved"), nil},
		"drop_too_big":           {both(maybe("drop_too_big"), unanswered), nil},
		"drop_no_headroom":       {maybe("drop_no_headroom"), nil},
		"drop_no_backend":        {func(e *encounter) bool { return e.served() && len(e.candidates) == 0 && !resets(e) }, nil},
		"drop_internal":          {func(*encounter) bool { return false }, nil},
	}
}

func both(a, b func(*encounter) bool) func(*encounter) bool {
	return func(e *encounter) bool { return a(e) && b(e) }
}

func notIP(e *encounter) bool { return e.l3 == 0 }

// notServed: for somebody else, or for a VIP's address and in shape, but nothing
// that the balancer serves there.
func notServed(e *encounter) bool {
	if e.l3 == 0 {
		return false
	}
	if e.flaws == 0 && e.part == laterFragment {
		return true // the first one may have been for another port; what follows a served one is pursued
	}
	known := e.flaws != 0 || e.served() || e.isEchoRequest() && !toGroup(e) || e.isError() && !e.about && !e.quotesOther()
	return !e.ours || !known
}

// early: a later fragment that comes before its first one, unless a VIP takes it.
func early(e *encounter) bool {
	return e.ours && e.flaws == 0 && e.part == laterFragment && e.mayBeFlow() && e.hashesFragments(e.protocol) == nil
}

// screened is why a packet is dropped although there is nothing wrong with its form,
// or empty.
func (e *encounter) screened() string {
	switch {
	case !e.options.Screening || e.flaws != 0 || !e.served() && !(e.ours && e.isEchoRequest()):
		return ""
	case e.source == e.destination:
		return "drop_land"
	case !ofHost(e.source):
		return "drop_bogus_source"
	case e.protocol == numberTCP && e.part != laterFragment && !validCombination(e.segment().flags):
		return "drop_tcp_flags"
	}
	return ""
}

func screenedFor(reason string) func(*encounter) bool {
	return func(e *encounter) bool { return e.screened() == reason }
}

// slipsThrough: a packet to be screened ends otherwise, and is no fragment that may have
// no VIP yet.
func (e *encounter) slipsThrough(reason string) bool {
	s := e.screened()
	return s != "" && s != reason && (e.part != laterFragment || reason != "drop_fragment_early" && reason != "pass_not_vip")
}

func spoiltBy(f flaw) func(*encounter) bool {
	return func(e *encounter) bool { return e.ours && e.flaws&f != 0 }
}

// toGroup: no answer is due to a frame to several hosts (RFC 1122, section 3.2.2).
func toGroup(e *encounter) bool { return e.frame()[0]&1 != 0 }

func echoed(e *encounter) bool { return e.ours && e.isEchoRequest() && !toGroup(e) }

func resets(e *encounter) bool {
	return e.served() && len(e.candidates) == 0 && e.pools[e.vips[0].Pool].Reset && e.part == whole && !e.about &&
		e.protocol == numberTCP && e.segment().flags&flagRST == 0 && !toGroup(e)
}

// maybe: a backend that the packet may go to has it end for that reason.
func maybe(reason string) func(*encounter) bool {
	return func(e *encounter) bool {
		return e.served() && slices.ContainsFunc(e.candidates, func(c candidate) bool {
			return slices.Contains(e.fate(c), reason)
		})
	}
}

// fate tells for which reasons the packet may end if its backend is this one: how
// it is sent on or, if it cannot be, every reason why.
func (e *encounter) fate(c candidate) []string {
	if c.path == nil || !c.reachable() {
		return []string{"drop_unresolved"}
	}
	var fates []string
	add := func(reason string, so bool) {
		if so {
			fates = append(fates, reason)
		}
	}
	outer := c.outerLength()
	growth := outer + headerEthernet - e.l3
	if c.path.VLAN != 0 {
		growth += headerTag
	}
	add("drop_unresolved", c.path.Link != e.ingress && !slices.Contains(e.links, c.path.Link))
	add("drop_ttl_exceeded", e.hops <= 1)
	add("drop_too_big", e.length()+outer > c.path.MTU)
	add("drop_no_headroom", growth != 0 && e.metadata+growth > mostMetadata)
	if len(fates) > 0 {
		return fates
	}
	if c.path.Link == e.ingress {
		return []string{"tx_forwarded"}
	}
	return []string{"redirect_forwarded"}
}

func (c candidate) reachable() bool {
	if c.vip.Mode == model.ModeDSRL2 {
		return c.path.OnLink
	}
	return c.path.Outer.IsValid() && c.path.Outer.Is4() == c.key.ID.Address.Is4()
}

func (c candidate) outerLength() int {
	n := headerIPv6
	if c.path.Outer.Is4() {
		n = headerIPv4
	}
	switch c.vip.Mode {
	case model.ModeDSRIPIP:
		return n
	case model.ModeDSRGUE:
		return n + headerGUE
	}
	return 0
}

func untouchedFrame(e *encounter, out []byte) (BackendKey, error) {
	return BackendKey{}, checkBytes(out, e.frame())
}

// forwardedFrame is the packet as one of the candidates is to receive it.
func forwardedFrame(e *encounter, out []byte) (BackendKey, error) {
	var errs []error
	for _, c := range e.candidates {
		if fate := e.fate(c)[0]; fate != "tx_forwarded" && fate != "redirect_forwarded" || !bytes.HasPrefix(out, c.path.Destination[:]) {
			continue
		}
		err := e.arrivesAt(c, out)
		if err == nil {
			return c.key, nil
		}
		errs = append(errs, fmt.Errorf("not as backend %v is to have it: %w", c.key, err))
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("for no backend that may have it:\n%s", dump(out)))
	}
	return BackendKey{}, errors.Join(errs...)
}

// arrivesAt wants link header, outer headers and the packet with one less to live;
// behind it may stand what stood there, and nothing else.
func (e *encounter) arrivesAt(c candidate, out []byte) error {
	head := e.linkTo(c)
	inner := len(head) + c.outerLength()
	size := inner + len(e.frame()) - e.l3
	if len(out) != size && len(out) != inner+e.length() {
		return fmt.Errorf("%d bytes, want %d", len(out), size)
	}
	end := inner + e.length()
	if err := e.outerFits(c, out[len(head):inner], out[inner:end]); err != nil {
		return err
	}
	packet := e.clamped(c, out[inner:end])
	want := slices.Concat(head, out[len(head):inner], packet, e.frame()[e.end:])
	return e.sameButHops(out, want[:len(out)], inner, e.hops-1)
}

// clamped is the packet with the MSS that the VIP grants; got is what has become of
// it, or of its head, whose TCP checksum is right by as much as it was.
func (e *encounter) clamped(c candidate, got []byte) []byte {
	want := slices.Clone(e.ip())
	if c.vip.MSS == 0 || !e.certain || e.about || !e.isSYN() {
		return want
	}
	at := e.mss() - e.l3
	if at < 0 || binary.BigEndian.Uint16(want[at:]) <= c.vip.MSS {
		return want
	}
	binary.BigEndian.PutUint16(want[at:], c.vip.MSS)
	l4 := e.l4 - e.l3
	check := l4 + 16
	if len(got) < check+2 || len(got) >= at+2 && sameSum("TCP segment", e.transport()[:len(got)-l4], got[l4:]) != nil {
		return want
	}
	copy(want[check:check+2], got[check:])
	return want
}

// linkTo is the Ethernet header before a packet to a backend, with its type.
func (e *encounter) linkTo(c candidate) []byte {
	kind := uint16(etherIPv4)
	if l2 := c.vip.Mode == model.ModeDSRL2; e.ipv6 && l2 || !l2 && c.path.Outer.Is6() {
		kind = etherIPv6
	}
	head := slices.Concat(c.path.Destination[:], c.path.Source[:])
	if c.path.VLAN != 0 {
		head = binary.BigEndian.AppendUint16(head, etherVLAN)
		head = binary.BigEndian.AppendUint16(head, c.path.VLAN)
	}
	return binary.BigEndian.AppendUint16(head, kind)
}

// sameButHops compares frames but for TTL or hop limit of the IP header at an
// offset, which is to have that value, and the checksum that follows it: one that
// was right stays so, one that was wrong stays wrong by as much.
func (e *encounter) sameButHops(got, want []byte, at int, hops uint8) error {
	want = slices.Clone(want)
	if e.ipv6 {
		want[at+7] = hops
		return checkBytes(got, want)
	}
	want[at+8] = hops
	check := at + 10
	copy(want[check:check+2], got[check:])
	if err := checkBytes(got, want); err != nil {
		return err
	}
	header := e.l4 - e.l3
	return sameSum("IPv4 header", e.frame()[e.l3:e.l4], got[at:at+header])
}

// sameSum wants two ranges that hold their own checksum to have the same sum.
func sameSum(what string, in, out []byte) error {
	if before, after := onesSum(in), onesSum(out); before%0xffff != after%0xffff || before == 0xffff && after == 0 {
		return fmt.Errorf("%s: sum was %#04x, is %#04x", what, before, after)
	}
	return nil
}

package model

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// MaxSourcePrefixes is the most prefixes of a source list.
const MaxSourcePrefixes = 1_000_000

// SourceDigest tells the contents of source lists apart. It is the SHA-256 of
// [SourceList.Encode].
type SourceDigest [sha256.Size]byte

func (d SourceDigest) String() string { return hex.EncodeToString(d[:]) }

// SourceList is a named list of prefixes of source addresses. Its contents are shared
// between states, and never changed: see [NewSourceList].
type SourceList struct {
	// Name is unique among source lists; see [ValidateName]. "none" is no name.
	Name   string
	Digest SourceDigest
	// IPv4 and IPv6 are how many prefixes of a family there are.
	IPv4, IPv6 int
	// Prefixes are sorted, each once; nil where only the counts are known.
	Prefixes []netip.Prefix
}

// NewSourceList makes a list of prefixes as [ParseSourcePrefix] takes them. It
// keeps the slice, and sorts it.
func NewSourceList(name string, prefixes []netip.Prefix) (SourceList, error) {
	at := fmt.Sprintf("source list %q", name)
	if len(prefixes) > MaxSourcePrefixes {
		return SourceList{}, &FieldError{at, fmt.Sprintf("has %d prefixes, at most %d are possible", len(prefixes), MaxSourcePrefixes)}
	}
	for _, p := range prefixes {
		if err := checkSourcePrefix(p); err != nil {
			return SourceList{}, &FieldError{at, err.Error()}
		}
	}
	slices.SortFunc(prefixes, comparePrefixes)
	l := SourceList{Name: name, Prefixes: slices.Compact(prefixes)}
	l.IPv6, _ = slices.BinarySearchFunc(l.Prefixes, true, func(p netip.Prefix, six bool) int {
		if p.Addr().Is6() {
			return 1
		}
		return -1
	})
	l.IPv4, l.IPv6 = l.IPv6, len(l.Prefixes)-l.IPv6
	l.Digest = sha256.Sum256(l.Encode())
	return l, nil
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// ParseSourcePrefix reads a prefix, or an address for one of full length. The error
// reads on from the name of the place.
func ParseSourcePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if !strings.Contains(s, "/") {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix, such as 192.0.2.0/24 or 2001:db8::/32", s)
	}
	return p, checkSourcePrefix(p)
}

func checkSourcePrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("an address with a zone, or none at all, is no prefix")
	case p.Addr().Is4In6():
		return fmt.Errorf("%s is IPv4-mapped; write it as IPv4", p)
	case p != p.Masked():
		return fmt.Errorf("%s has bits beyond its length; write %s, or %s", p, p.Masked(), p.Addr())
	}
	return nil
}

// ipv6Bits is added to the length of an IPv6 prefix where that tells its family.
const ipv6Bits = 100

// Encode renders the prefixes in as few bytes as make sense: of each its length, and
// 100 more for IPv6, then its address.
func (l *SourceList) Encode() []byte {
	var b bytes.Buffer
	b.Grow(5*l.IPv4 + 17*l.IPv6)
	for _, p := range l.Prefixes {
		if p.Addr().Is4() {
			a := p.Addr().As4()
			b.WriteByte(byte(p.Bits()))
			b.Write(a[:])
		} else {
			a := p.Addr().As16()
			b.WriteByte(byte(ipv6Bits + p.Bits()))
			b.Write(a[:])
		}
	}
	return b.Bytes()
}

// DecodeSourceList is the inverse of [SourceList.Encode].
func DecodeSourceList(name string, data []byte) (SourceList, error) {
	var prefixes []netip.Prefix
	for len(data) > 0 {
		bits, length := int(data[0]), 4
		if bits >= ipv6Bits {
			bits, length = bits-ipv6Bits, 16
		}
		if len(data) <= length {
			return SourceList{}, errors.New("the last prefix is cut off")
		}
		a, _ := netip.AddrFromSlice(data[1 : 1+length])
		prefixes = append(prefixes, netip.PrefixFrom(a, bits))
		data = data[1+length:]
	}
	return NewSourceList(name, prefixes)
}

// NoSourceList stands in a request for none.
const NoSourceList = "none"

// Sources name source lists that a VIP's packets are held against, each empty for
// none.
type Sources struct {
	// Deny lists those whose packets are dropped. Where there is an Allow, all that
	// are not on it are dropped as well.
	Deny, Allow string
}

// NodeSources hold for all VIPs, whatever their own.
type NodeSources struct {
	Sources
	// Bogus lists what no packet may come from, besides what never may.
	Bogus string
}

// SourceList returns the source list of that name, or a [NotFoundError].
func (s *State) SourceList(name string) (*SourceList, error) {
	for i := range s.SourceLists {
		if s.SourceLists[i].Name == name {
			return &s.SourceLists[i], nil
		}
	}
	return nil, notFound("source list", name, "", names(s.SourceLists, func(l SourceList) string { return l.Name }))
}

// UsersOf names what uses a source list, in the operator's words: "VIP web (deny)",
// "all VIPs (bogus)".
func (s *State) UsersOf(list string) []string {
	var users []string
	add := func(who, how, name string) {
		if name == list {
			users = append(users, fmt.Sprintf("%s (%s)", who, how))
		}
	}
	both := func(who string, sources Sources) {
		add(who, "deny", sources.Deny)
		add(who, "allow", sources.Allow)
	}
	both("all VIPs", s.Sources.Sources)
	add("all VIPs", "bogus", s.Sources.Bogus)
	for _, v := range s.VIPs {
		both("VIP "+v.Name, v.Sources)
	}
	return users
}

// sourceLists checks the lists, and that all that are named are there.
func (v *validator) sourceLists(s *State) {
	known := map[string]bool{}
	for i := range s.SourceLists {
		l := &s.SourceLists[i]
		at := fmt.Sprintf("source list %q", l.Name)
		v.name(at, l.Name)
		if l.Name == NoSourceList {
			v.fail(at+", name", "%q stands for no list", NoSourceList)
		}
		if known[l.Name] {
			v.fail(at, "this name is taken by another source list")
		}
		known[l.Name] = true
	}
	find := func(at, name string) {
		if name != "" && !known[name] {
			_, err := s.SourceList(name)
			v.fail(at, "%v", err)
		}
	}
	find("all VIPs, deny", s.Sources.Deny)
	find("all VIPs, allow", s.Sources.Allow)
	find("all VIPs, bogus", s.Sources.Bogus)
	for i := range s.VIPs {
		at := fmt.Sprintf("VIP %q", s.VIPs[i].Name)
		find(at+", deny", s.VIPs[i].Sources.Deny)
		find(at+", allow", s.VIPs[i].Sources.Allow)
	}
}

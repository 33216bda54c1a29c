package model

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// TestSourceList: the same set is the same list, in whatever order it comes, and reads
// back.
func TestSourceList(t *testing.T) {
	a, err := NewSourceList("a", prefixes("2001:db8::/32", "10.0.0.0/8", "192.0.2.1/32", "::/0", "10.0.0.0/8", "10.0.0.0/16", "0.0.0.0/0"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewSourceList("b", prefixes("0.0.0.0/0", "10.0.0.0/16", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Digest || !slices.Equal(a.Prefixes, b.Prefixes) || a.IPv4 != 4 || a.IPv6 != 2 {
		t.Errorf("%+v and %+v differ", a, b)
	}
	back, err := DecodeSourceList("a", a.Encode())
	if err != nil || !reflect.DeepEqual(back, a) {
		t.Errorf("read back as %+v, %v", back, err)
	}
	if c, err := NewSourceList("c", prefixes("10.0.0.0/8")); err != nil || c.Digest == a.Digest {
		t.Errorf("%+v, %v", c, err)
	}
	for name, data := range map[string][]byte{
		"cut off": {24, 192, 0}, "a length": {33, 1, 2, 3, 4}, "beyond": {8, 1, 2, 3, 4}, "a length of ipv6": append([]byte{229}, make([]byte, 16)...),
	} {
		if l, err := DecodeSourceList("x", data); err == nil {
			t.Errorf("%s: decoded %+v", name, l)
		}
	}
	if _, err := NewSourceList("many", make([]netip.Prefix, MaxSourcePrefixes+1)); err == nil {
		t.Error("more prefixes than may be are not refused")
	}
}

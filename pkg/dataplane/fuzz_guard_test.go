package dataplane

import (
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// What VIPs of the fuzzer's deny and allow. Neither has anything to do with the
// addresses that seeds come from, but mutations are on them.
func fuzzDenied() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/2"), netip.MustParsePrefix("203.0.113.128/25"), netip.MustParsePrefix("8000::/1"), netip.MustParsePrefix("2001:db8:c:8000::/49"),
	}
}

func fuzzAllowed() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("192.0.0.0/3"), netip.MustParsePrefix("3.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fe00::/7"),
	}
}

// addFuzzGuards has VIPs of UDP deny, and some of TCP allow.
func addFuzzGuards(state *forwarding.State) {
	for name, prefixes := range map[string][]netip.Prefix{"denied": fuzzDenied(), "allowed": fuzzAllowed()} {
		l, err := model.NewSourceList(name, prefixes)
		if err != nil {
			panic(err)
		}
		state.SourceLists = append(state.SourceLists, l)
	}
	for i := range state.VIPs {
		v := &state.VIPs[i]
		switch {
		case v.Protocol == model.UDP:
			v.Sources.Deny = "denied"
		case len(v.Name)%2 == 0:
			v.Sources.Allow = "allowed"
		}
	}
}

func holds(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// refusal is why a VIP does not take the packet from its source, or empty.
func (e *encounter) refusal(v *model.VIP) string {
	client := e.source
	if e.about {
		flow, _ := e.quoted()
		client = flow.Source.Addr()
	}
	switch {
	case v.Sources.Deny != "" && (holds(fuzzDenied(), e.source) || holds(fuzzDenied(), client)):
		return "drop_denied"
	case v.Sources.Allow != "" && !holds(fuzzAllowed(), client):
		return "drop_not_allowed"
	}
	return ""
}

// refused: one of the VIPs that may be the packet's does not take it for that reason.
func refused(reason string) func(*encounter) bool {
	return func(e *encounter) bool {
		return slices.ContainsFunc(e.vips, func(v *model.VIP) bool { return e.refusal(v) == reason })
	}
}

// intrudes: its VIP does not take the packet, and it ends otherwise.
func (e *encounter) intrudes(reason string) bool {
	if !e.served() || e.part == laterFragment || e.screened() != "" {
		return false
	}
	want := e.refusal(e.vips[0])
	return want != "" && want != reason
}

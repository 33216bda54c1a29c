package e2e

import (
	"net/netip"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// A way is how packets travel to backends: a mode, the family of what is inside and
// that of the outer header. Each has VIP addresses of its own.
type way struct {
	name, mode string
	vip        netip.Addr
	// pool is "v4" or "v6", after the addresses of its backends.
	pool string
	// outer is how many bytes the mode adds.
	outer int
}

// ways are all forwarding modes, for IPv4 and IPv6.
func ways() []way {
	l2v4, l2v6 := lab.VIP(1)
	ipip4, ipip6 := lab.VIP(2)
	gue4, gue6 := lab.VIP(3)
	return []way{
		{"dsr-l2-v4", "dsr-l2", l2v4, "v4", 0},
		{"dsr-l2-v6", "dsr-l2", l2v6, "v6", 0},
		{"dsr-ipip-v4", "dsr-ipip", ipip4, "v4", 20},
		{"dsr-ipip-v6", "dsr-ipip", ipip6, "v6", 40},
		{"dsr-gue-v4", "dsr-gue", gue4, "v4", 32},
		{"dsr-gue-v6", "dsr-gue", gue6, "v6", 52},
	}
}

// crossed are those whose outer header is of the other family.
func crossed() []way {
	ipip4, ipip6 := lab.VIP(4)
	gue4, gue6 := lab.VIP(5)
	return []way{
		{"dsr-ipip-4in6", "dsr-ipip", ipip4, "v6", 40},
		{"dsr-ipip-6in4", "dsr-ipip", ipip6, "v4", 20},
		{"dsr-gue-4in6", "dsr-gue", gue4, "v6", 52},
		{"dsr-gue-6in4", "dsr-gue", gue6, "v4", 32},
	}
}

func vipsOf(ways []way) []netip.Addr {
	var vips []netip.Addr
	for _, w := range ways {
		vips = append(vips, w.vip)
	}
	return vips
}

// addPools adds the pools "v4" and "v6", of all backends.
func (r *rig) addPools() {
	r.t.Helper()
	r.addPool("v4", v4)
	r.addPool("v6", v6)
	for _, name := range []string{"v4", "v6"} {
		r.addCheck(name, checkInterval, checkTimeout, 10)
		r.waitUp(name, r.Backends...)
	}
}

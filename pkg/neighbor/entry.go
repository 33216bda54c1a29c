package neighbor

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// entryKey names an entry of the kernel's neighbour tables (ARP and NDP).
type entryKey struct {
	link int
	addr netip.Addr
}

// keyOf is false for what is not an IPv4 or IPv6 neighbour: forwarding
// databases of bridges, proxies.
func keyOf(n *netlink.Neigh) (entryKey, bool) {
	if n.Family != unix.AF_INET && n.Family != unix.AF_INET6 || n.Flags&netlink.NTF_PROXY != 0 {
		return entryKey{}, false
	}
	addr := toAddr(n.IP)
	return entryKey{n.LinkIndex, addr}, addr.IsValid()
}

// phase is how far the resolution of a neighbour is.
type phase uint8

const (
	// unresolved was never known.
	unresolved phase = iota
	// resolved has a MAC that the kernel would use.
	resolved
	// again has the last known MAC while the kernel asks for it anew.
	again
	// silent does not answer.
	silent
)

// entry is a neighbour that at least one address depends on.
type entry struct {
	phase phase
	mac   [6]byte
	// ask says that the kernel is to be told to resolve it.
	ask bool
	// refusal is the kernel's last error when it was told to, or empty.
	refusal string
	// users are the addresses behind it.
	users []netip.Addr
}

// The states in which the kernel would use an entry; NUD_VALID in its
// include/net/neighbour.h.
const usable = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE |
	netlink.NUD_PROBE | netlink.NUD_STALE | netlink.NUD_DELAY

// observe takes over the kernel's view: its state of the entry, which is
// NUD_NONE if there is none, and the link-layer address.
func (e *entry) observe(state int, mac []byte) {
	switch {
	case state&usable != 0 && len(mac) == len(e.mac):
		copy(e.mac[:], mac)
		e.phase, e.refusal = resolved, ""
		e.ask = state&netlink.NUD_STALE != 0
	case state&netlink.NUD_INCOMPLETE != 0:
		e.ask = false
		if e.phase == resolved {
			e.phase = again
		}
	case e.phase == resolved:
		// Deleted, or the kernel asked the MAC it knew and got no answer.
		// Another MAC may answer to a broadcast.
		e.phase, e.ask = again, true
	case state&netlink.NUD_FAILED != 0:
		e.phase, e.ask = silent, false
	default:
		// Asking at once for what is silent would make the kernel probe without
		// a pause; that waits for the next reconciliation.
		e.ask = e.phase != silent
	}
}

// reconcile is observe for a periodic look at the whole table.
func (e *entry) reconcile(state int, mac []byte) {
	e.observe(state, mac)
	if e.phase == silent && state&netlink.NUD_INCOMPLETE == 0 {
		e.ask = true
	}
}

// problem says why there is no MAC to send to, or is empty.
func (e *entry) problem(addr netip.Addr, device string) string {
	switch {
	case e.phase == resolved || e.phase == again:
		return ""
	case e.refusal != "":
		return e.refusal
	case e.phase == unresolved:
		return fmt.Sprintf("neighbour %s on %s is being resolved", addr, device)
	}
	return fmt.Sprintf("neighbour %s on %s does not answer", addr, device)
}

// refusalOf explains why the kernel would not resolve a neighbour.
func refusalOf(key entryKey, device string, err error) string {
	if errors.Is(err, unix.ENOBUFS) {
		family := "ipv6"
		if key.addr.Is4() {
			family = "ipv4"
		}
		return fmt.Sprintf("the kernel's neighbour table has no room for %s on %s; raise net.%s.neigh.default.gc_thresh1 to 3", key.addr, device, family)
	}
	return fmt.Sprintf("the kernel does not resolve neighbour %s on %s: %v", key.addr, device, err)
}

package backend

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loopback is the interface that VIPs go on: nobody asks for addresses on it.
const loopback = "lo"

// missingVIPs returns the VIPs that the host does not have yet. A VIP on an
// interface of a segment is an error: the host would claim it there.
func (h *host) missingVIPs() ([]netip.Addr, error) {
	links, err := patiently(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := map[int]*netlink.LinkAttrs{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	addrs, err := patiently(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	present := map[netip.Addr]bool{}
	for _, a := range addrs {
		vip, _ := netip.AddrFromSlice(a.IP)
		vip = vip.Unmap()
		on := byIndex[a.LinkIndex]
		if on == nil || !slices.Contains(h.VIPs, vip) {
			continue
		}
		if on.RawFlags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) == 0 {
			return nil, fmt.Errorf("VIP %s is an address of %s, where this host claims it for itself; take it off with 'ip address del %s dev %s'", vip, on.Name, a.IPNet, on.Name)
		}
		present[vip] = true
		h.Say("%s is on %s already: left as it is, at the end too", vip, on.Name)
	}
	return slices.DeleteFunc(slices.Clone(h.VIPs), func(vip netip.Addr) bool { return present[vip] }), nil
}

// patiently repeats a listing that changes interrupted.
func patiently[T any](list func() ([]T, error)) ([]T, error) {
	var err error
	for range 10 {
		var found []T
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
	return nil, err
}

func (h *host) addVIPs(vips []netip.Addr) error {
	if len(vips) == 0 {
		return nil
	}
	lo, err := h.LinkByName(loopback)
	if err != nil {
		return fmt.Errorf("the loopback interface, which VIPs go on: %w", err)
	}
	if lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		return errors.New("the loopback interface is down, and VIPs go on it; 'ip link set lo up' brings it up")
	}
	for _, vip := range vips {
		if err := h.addVIP(lo, vip); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) addVIP(lo netlink.Link, vip netip.Addr) error {
	err := h.AddrAdd(lo, vipAddr(vip))
	switch {
	case errors.Is(err, unix.EACCES) && vip.Is6():
		return fmt.Errorf("add %s to %s: %w; IPv6 is off there, see net.ipv6.conf.%[2]s.disable_ipv6", vip, loopback, err)
	case err != nil:
		return fmt.Errorf("add %s to %s: %w", vip, loopback, explain(err))
	}
	h.Say("%s added to %s", vip, loopback)
	h.onUndo(func() error {
		err := h.AddrDel(lo, vipAddr(vip))
		switch {
		case errors.Is(err, unix.EADDRNOTAVAIL):
			h.Say("%s is no longer on %s: somebody else removed it", vip, loopback)
			return nil
		case err != nil:
			return fmt.Errorf("remove %s from %s: %w", vip, loopback, explain(err))
		}
		h.Say("%s removed from %s", vip, loopback)
		return nil
	})
	return nil
}

// vipAddr is a VIP as an address of the loopback interface, such that the host
// does not take it as source of its own connections: of host scope (IPv4), or
// deprecated (IPv6; RFC 6724, rule 3, prefers any other address of the scope).
func vipAddr(vip netip.Addr) *netlink.Addr {
	bits := vip.BitLen()
	a := &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(bits, bits)}}
	if vip.Is4() {
		a.Scope = unix.RT_SCOPE_HOST
		return a
	}
	a.Flags = unix.IFA_F_NODAD
	a.ValidLft, a.PreferedLft = math.MaxUint32, 0
	return a
}

package neighbor

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is what matters of a network interface.
type device struct {
	name        string
	mtu         int
	mac         [6]byte
	ethernet    bool
	up, running bool
	vlan        *vlan
}

// vlan is a device that tags what its parent transmits.
type vlan struct {
	id       uint16
	protocol netlink.VlanProtocol
	parent   int
	// elsewhere says that the parent is in another network namespace.
	elsewhere bool
}

// devices by interface index.
type devices map[int]device

func newDevices(links []netlink.Link) devices {
	all := make(devices, len(links))
	for _, link := range links {
		a := link.Attrs()
		d := device{
			name:     a.Name,
			mtu:      a.MTU,
			ethernet: a.EncapType == "ether" && len(a.HardwareAddr) == 6,
			up:       a.RawFlags&unix.IFF_UP != 0,
			running:  a.RawFlags&unix.IFF_RUNNING != 0,
		}
		copy(d.mac[:], a.HardwareAddr)
		if v, ok := link.(*netlink.Vlan); ok {
			d.vlan = &vlan{uint16(v.VlanId), v.VlanProtocol, a.ParentIndex, a.NetNsID >= 0}
		}
		all[a.Index] = d
	}
	return all
}

func (d device) equal(other device) bool {
	if (d.vlan == nil) != (other.vlan == nil) || d.vlan != nil && *d.vlan != *other.vlan {
		return false
	}
	d.vlan, other.vlan = nil, nil
	return d == other
}

// problem says why nothing can be sent through the device, or is empty.
func (d device) problem() string {
	switch {
	case !d.ethernet:
		return fmt.Sprintf("interface %s has no Ethernet header", d.name)
	case !d.up:
		return d.name + " is down"
	case !d.running:
		return d.name + " has no carrier"
	}
	return ""
}

// egress fills in the part of a Hop that follows from the device of its route.
func (all devices) egress(index int) Hop {
	d, ok := all[index]
	if !ok {
		return Hop{Link: index, Problem: fmt.Sprintf("interface %d does not exist", index)}
	}
	hop := Hop{Link: index, Interface: d.name, Source: d.mac, MTU: d.mtu, Problem: d.problem()}
	if d.vlan == nil {
		return hop
	}
	parent, ok := all[d.vlan.parent]
	switch {
	case d.vlan.elsewhere || !ok:
		hop.Problem = fmt.Sprintf("the parent of VLAN interface %s is in another network namespace", d.name)
		return hop
	case parent.vlan != nil:
		hop.Problem = fmt.Sprintf("interface %s stacks a VLAN on VLAN interface %s; only one tag is supported", d.name, parent.name)
		return hop
	case d.vlan.protocol != netlink.VLAN_PROTOCOL_8021Q && d.vlan.protocol != netlink.VLAN_PROTOCOL_UNKNOWN:
		hop.Problem = fmt.Sprintf("VLAN interface %s tags with %s; only 802.1Q is supported", d.name, d.vlan.protocol)
		return hop
	}
	hop.Link, hop.Interface, hop.VLAN = d.vlan.parent, parent.name, d.vlan.id
	if problem := parent.problem(); problem != "" {
		hop.Problem = problem
	}
	return hop
}

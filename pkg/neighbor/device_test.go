package neighbor

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func attrs(index int, name string, change ...func(*netlink.LinkAttrs)) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Index, a.Name, a.MTU, a.EncapType, a.NetNsID = index, name, 1500, "ether", -1
	a.HardwareAddr = []byte{2, 0, 0, 0, 0, byte(index)}
	a.RawFlags = unix.IFF_UP | unix.IFF_RUNNING
	for _, c := range change {
		c(&a)
	}
	return a
}

func onParent(index, mtu int) func(*netlink.LinkAttrs) {
	return func(a *netlink.LinkAttrs) { a.ParentIndex, a.MTU = index, mtu }
}

func withFlags(flags uint32) func(*netlink.LinkAttrs) {
	return func(a *netlink.LinkAttrs) { a.RawFlags = flags }
}

func vlanLink(a netlink.LinkAttrs, id int, protocol netlink.VlanProtocol) *netlink.Vlan {
	return &netlink.Vlan{LinkAttrs: a, VlanId: id, VlanProtocol: protocol}
}

func TestEgress(t *testing.T) {
	all := newDevices([]netlink.Link{
		&netlink.Device{LinkAttrs: attrs(2, "eth0")},
		&netlink.Device{LinkAttrs: attrs(3, "eth1", withFlags(0))},
		&netlink.Device{LinkAttrs: attrs(4, "eth2", withFlags(unix.IFF_UP))},
		&netlink.Tuntap{LinkAttrs: attrs(5, "tun0", func(a *netlink.LinkAttrs) { a.EncapType, a.HardwareAddr = "none", nil })},
		vlanLink(attrs(10, "eth0.10", onParent(2, 1496)), 10, netlink.VLAN_PROTOCOL_8021Q),
		vlanLink(attrs(11, "eth0.10.11", onParent(10, 1492)), 11, netlink.VLAN_PROTOCOL_8021Q),
		vlanLink(attrs(12, "eth0.12", onParent(2, 1496)), 12, netlink.VLAN_PROTOCOL_8021AD),
		vlanLink(attrs(13, "eth1.13", onParent(3, 1496)), 13, netlink.VLAN_PROTOCOL_8021Q),
		vlanLink(attrs(14, "eth0.14", onParent(2, 1496), func(a *netlink.LinkAttrs) { a.NetNsID = 0 }), 14, netlink.VLAN_PROTOCOL_8021Q),
		vlanLink(attrs(15, "eth0.15", onParent(2, 1496), withFlags(0)), 15, netlink.VLAN_PROTOCOL_8021Q),
		vlanLink(attrs(16, "eth9.16", onParent(99, 1496)), 16, netlink.VLAN_PROTOCOL_8021Q),
	})
	mac := func(last byte) [6]byte { return [6]byte{2, 0, 0, 0, 0, last} }
	for _, row := range []struct {
		name  string
		index int
		want  Hop
	}{
		{"plain", 2, Hop{Link: 2, Interface: "eth0", Source: mac(2), MTU: 1500}},
		{"down", 3, Hop{Link: 3, Interface: "eth1", Source: mac(3), MTU: 1500, Problem: "eth1 is down"}},
		{"no carrier", 4, Hop{Link: 4, Interface: "eth2", Source: mac(4), MTU: 1500, Problem: "eth2 has no carrier"}},
		{"tun", 5, Hop{Link: 5, Interface: "tun0", MTU: 1500, Problem: "interface tun0 has no Ethernet header"}},
		{"vlan: its own MAC and MTU, its parent transmits", 10,
			Hop{Link: 2, Interface: "eth0", VLAN: 10, Source: mac(10), MTU: 1496}},
		{"vlan on vlan", 11, Hop{Link: 11, Interface: "eth0.10.11", Source: mac(11), MTU: 1492,
			Problem: "interface eth0.10.11 stacks a VLAN on VLAN interface eth0.10; only one tag is supported"}},
		{"service tag", 12, Hop{Link: 12, Interface: "eth0.12", Source: mac(12), MTU: 1496,
			Problem: "VLAN interface eth0.12 tags with 802.1ad; only 802.1Q is supported"}},
		{"vlan whose parent is down", 13,
			Hop{Link: 3, Interface: "eth1", VLAN: 13, Source: mac(13), MTU: 1496, Problem: "eth1 is down"}},
		{"vlan whose parent is elsewhere", 14, Hop{Link: 14, Interface: "eth0.14", Source: mac(14), MTU: 1496,
			Problem: "the parent of VLAN interface eth0.14 is in another network namespace"}},
		{"vlan that is down", 15,
			Hop{Link: 2, Interface: "eth0", VLAN: 15, Source: mac(15), MTU: 1496, Problem: "eth0.15 is down"}},
		{"vlan without its parent", 16, Hop{Link: 16, Interface: "eth9.16", Source: mac(16), MTU: 1496,
			Problem: "the parent of VLAN interface eth9.16 is in another network namespace"}},
		{"unknown", 77, Hop{Link: 77, Problem: "interface 77 does not exist"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := all.egress(row.index); got != row.want {
				t.Errorf("got  %+v\nwant %+v", got, row.want)
			}
		})
	}
}

func TestDeviceEqual(t *testing.T) {
	link := func(id int, change ...func(*netlink.LinkAttrs)) device {
		return newDevices([]netlink.Link{vlanLink(attrs(2, "eth0.10", change...), id, netlink.VLAN_PROTOCOL_8021Q)})[2]
	}
	if !link(10).equal(link(10)) {
		t.Error("the same device differs")
	}
	plain := newDevices([]netlink.Link{&netlink.Device{LinkAttrs: attrs(2, "eth0.10")}})[2]
	for name, other := range map[string]device{
		"tag": link(11), "MTU": link(10, onParent(0, 1400)), "down": link(10, withFlags(0)), "plain": plain,
	} {
		if link(10).equal(other) || other.equal(link(10)) {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// Package neighbor follows the kernel's routes, neighbours and links through
// netlink and says, for each address of a set, how packets leave towards it:
// device, VLAN tag, Ethernet addresses, source address, MTU. It keeps the
// neighbours that it needs resolved, although the kernel itself sends no
// traffic to them.
//
// # When a next hop is unusable
//
// A neighbour that was resolved once keeps its last MAC while the kernel asks
// for it again: when its entry is stale, was deleted or flushed, or when
// confirming it by unicast failed and it is asked for by broadcast. It becomes
// a problem when that fails too. So neither a flushed neighbour table nor a
// host that moved to another MAC interrupts traffic for longer than it takes
// to resolve it anew.
package neighbor

import (
	"net/netip"
	"reflect"
)

// Hop is how packets leave towards an address. Two Hops are equal when packets
// leave in the same way.
//
// Only a Hop without Problem is usable; one with a Problem holds what is known
// nevertheless.
type Hop struct {
	// Link is the index of the device that transmits, Interface its name. For
	// a route over a VLAN device that is the VLAN device's parent.
	Link      int
	Interface string
	// VLAN is the 802.1Q tag to put on, 1 to 4094, or 0 for none.
	VLAN uint16
	// Source and Destination are the MACs of the Ethernet header.
	Source, Destination [6]byte
	// OnLink says that the address itself is the next hop: there is no gateway.
	OnLink bool
	// SourceIP is the address that the kernel would send from. It is not valid
	// if the host has no address of that family.
	SourceIP netip.Addr
	// MTU is the largest layer-3 packet in bytes: that of the route, where it
	// has one or the kernel has learned a path MTU, or that of the device.
	MTU int
	// Problem says why packets cannot be sent, or is empty.
	Problem string
}

// Table holds the Hop of every address. It is immutable once published. IPv4
// addresses are never IPv4-mapped in it.
type Table map[netip.Addr]Hop

// Same reports whether two are the very same table: then it has the same hops.
func (t Table) Same(other Table) bool {
	return reflect.ValueOf(t).UnsafePointer() == reflect.ValueOf(other).UnsafePointer()
}

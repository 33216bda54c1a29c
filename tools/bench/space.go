package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

// wayOut is the interface behind which all clients are, for packets whose way the
// kernel's routes tell.
const wayOut = "out"

// enterSpace puts the calling goroutine into a network namespace of its own that
// forwards, so that no interface of the machine's is concerned. It locks the
// goroutine to its thread, which ends with it.
func enterSpace() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("a network namespace (needs root): %w", err)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		if err := os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte("1"), 0); err != nil {
			return fmt.Errorf("forwarding in a network namespace: %w", err)
		}
	}
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: wayOut}, PeerName: "router"}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("interfaces in a network namespace: %w", err)
	}
	out, err := netlink.LinkByName(wayOut)
	if err != nil {
		return err
	}
	peer, err := netlink.LinkByName(link.PeerName)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(out), netlink.LinkSetUp(peer)); err != nil {
		return err
	}
	return errors.Join(
		routeAll(out, "203.0.113.2/30", "0.0.0.0/0", subject.Router(false)),
		routeAll(out, "2001:db8::2/126", "::/0", subject.Router(true)))
}

// routeAll gives an interface an address and makes a router behind it the way to all. The
// address has no neighbours besides, for among random clients some would be.
func routeAll(link netlink.Link, address, all string, router netip.Addr) error {
	own, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	own.Flags = unix.IFA_F_NODAD
	_, to, err := net.ParseCIDR(all)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, own); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	index := link.Attrs().Index
	neighbour := &netlink.Neigh{LinkIndex: index, IP: router.AsSlice(), State: netlink.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 2, 1}}
	if err := netlink.NeighAdd(neighbour); err != nil {
		return fmt.Errorf("neighbour %s: %w", router, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: to, Gw: router.AsSlice()}); err != nil {
		return fmt.Errorf("route to %s: %w", all, err)
	}
	return nil
}

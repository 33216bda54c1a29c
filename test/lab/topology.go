package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clientMTU is what the Internet gives a client, in bytes.
const clientMTU = 1500

// A network is one of the lab's links or address ranges; see the package comment.
type network uint8

const (
	netClient  network = iota // client and router
	netLAN                    // router, balancer and backends at the switch
	netFront                  // router and balancer, where it has two interfaces
	netVIPs                   // routed to the balancer
	netSources                // routed to the client
	netTransit                // access router and router
)

// prefixes returns a /24 and a /64.
func (n network) prefixes() (v4, v6 netip.Prefix) {
	text4, text6 := "192.0.2.0/24", "2001:db8:1::/64"
	switch n {
	case netLAN:
		text4, text6 = "10.0.0.0/24", "2001:db8:2::/64"
	case netFront:
		text4, text6 = "10.0.1.0/24", "2001:db8:3::/64"
	case netVIPs:
		text4, text6 = "198.51.100.0/24", "2001:db8:100::/64"
	case netSources:
		text4, text6 = "203.0.113.0/24", "2001:db8:113::/64"
	case netTransit:
		text4, text6 = "10.0.2.0/24", "2001:db8:4::/64"
	}
	return netip.MustParsePrefix(text4), netip.MustParsePrefix(text6)
}

// host returns the addresses of the i-th host, 1 to 254. Both families show the
// same decimal digits: 10.0.0.11 and 2001:db8:2::11.
func (n network) host(i int) (v4, v6 netip.Addr) {
	p4, p6 := n.prefixes()
	v4 = netip.MustParseAddr(fmt.Sprintf("%s%d", strings.TrimSuffix(p4.Addr().String(), "0"), i))
	v6 = netip.MustParseAddr(fmt.Sprintf("%s%d", p6.Addr(), i))
	return v4, v6
}

// VIP returns the i-th address, 1 to 254, of the ranges that the router sends
// to the balancer.
func VIP(i int) (v4, v6 netip.Addr) { return netVIPs.host(i) }

// SNAT returns the addresses, four of each family, that a balancer which answers
// pass has at the switch, for backends to answer to instead of clients.
func SNAT() (v4, v6 netip.Prefix) {
	v4a, v6a := netLAN.host(248)
	return netip.PrefixFrom(v4a, 30), netip.PrefixFrom(v6a, 126)
}

// Front returns the balancer's addresses on the side that clients come from.
func (l *Lab) Front() (v4, v6 netip.Addr) {
	if l.Interfaces == 2 {
		return netFront.host(2)
	}
	return netLAN.host(2)
}

// build makes everything that Close removes.
func (l *Lab) build() error {
	state, err := json.Marshal(l.Options)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.dir, stateFile), append(state, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(l.BPFFS(), 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bpf", l.BPFFS(), "bpf", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a BPF file system at %s: %w", l.BPFFS(), err)
	}
	if err := l.openHome(); err != nil {
		return err
	}
	for _, step := range []func() error{l.makeHosts, l.makeLinks, l.offloads, l.configure, l.waitUp} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// makeHosts makes the namespaces and their kernel settings, before any device
// is there to miss them.
func (l *Lab) makeHosts() error {
	var batch []string
	for _, h := range l.Hosts() {
		batch = append(batch, "netns add "+h.NetNS)
	}
	if err := ipBatch(nil, batch); err != nil {
		return err
	}
	for _, h := range l.Hosts() {
		if err := os.Mkdir(h.Dir(), 0o755); err != nil {
			return err
		}
		if err := h.open(); err != nil {
			return err
		}
		if err := h.Sysctl(
			// Addresses are usable at once, without duplicate address detection;
			// the kernel's own link-local ones would come up to a second after
			// the link, and a router without one asks for no neighbour.
			"net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0",
			"net/ipv6/conf/default/addr_gen_mode=1",
			"net/ipv6/conf/all/accept_ra=0", "net/ipv6/conf/default/accept_ra=0",
			// Direct server return is asymmetric.
			"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0",
			// Who asks often, such as a test, is answered every time.
			"net/ipv4/icmp_ratelimit=0", "net/ipv6/icmp/ratelimit=0",
		); err != nil {
			return err
		}
	}
	// The client sends from any address of a range, IPv6 included.
	if err := l.Client.Sysctl("net/ipv6/ip_nonlocal_bind=1"); err != nil {
		return err
	}
	routers := []*Host{l.Router}
	if l.Access != nil {
		routers = append(routers, l.Access)
	}
	if l.Return == ReturnGateway {
		routers = append(routers, l.Balancer)
	}
	for _, h := range routers {
		if err := h.Sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1",
			"net/ipv4/conf/all/send_redirects=0", "net/ipv4/conf/default/send_redirects=0"); err != nil {
			return err
		}
	}
	return nil
}

// makeLinks makes the veth pairs and the bridge. Every host's end is eth0
// (eth1 for the balancer's second; lan for the router at the switch); the other
// end is named after the host.
//
// The ends of a pair have different indices because the kernel takes its time,
// up to a second, to see that a device is up if its index is also its peer's
// (linkwatch_urgent_event), and a device takes no IPv6 multicast until then.
func (l *Lab) makeLinks() error {
	var batch []string
	veth := func(h *Host, device string, index, mtu int, at *Host) {
		end := fmt.Sprintf("mtu %d numtxqueues %[2]d numrxqueues %[2]d", mtu, l.Queues)
		batch = append(batch, fmt.Sprintf("link add %s netns %s index %d %s type veth peer %s netns %s index %d %s",
			device, h.NetNS, index, end, h.Name, at.NetNS, 100+len(batch), end))
	}
	gateway := l.Router
	if l.Access != nil {
		gateway = l.Access
		veth(l.Access, "eth0", 2, l.Transit, l.Router)
	}
	veth(l.Client, "eth0", 2, clientMTU, gateway)
	veth(l.Router, "lan", 2, l.MTU, l.Switch)
	if l.Interfaces == 2 {
		veth(l.Balancer, "eth0", 2, l.MTU, l.Router)
		veth(l.Balancer, "eth1", 3, l.MTU, l.Switch)
	} else {
		veth(l.Balancer, "eth0", 2, l.MTU, l.Switch)
	}
	for _, b := range l.Backends {
		veth(b, "eth0", 2, l.MTU, l.Switch)
	}
	// Kernels such as 6.1 and 6.12 want an index to be free where the command is
	// run as well, so it is not run where the machine's own devices are.
	if err := ipBatch(l.Switch, batch); err != nil {
		return err
	}
	batch = []string{"link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0"}
	for _, h := range append([]*Host{l.Router, l.Balancer}, l.Backends...) {
		batch = append(batch, fmt.Sprintf("link set %s master br0 up", h.Name))
	}
	return ipBatch(l.Switch, append(batch, "link set br0 up"))
}

// offloads sets up the devices for XDP. A veth end that leaves checksums to the
// hardware hands XDP partial ones, so all ends compute them.
func (l *Lab) offloads() error {
	for _, h := range l.Hosts() {
		devices, err := h.devices()
		if err != nil {
			return err
		}
		for _, device := range devices {
			if _, err := h.Run("ethtool", "-K", device.Attrs().Name, "tx", "off"); err != nil {
				return err
			}
		}
	}
	if l.Interfaces == 2 {
		if err := l.Router.ReceiveXDP(l.Balancer.Name); err != nil {
			return err
		}
	}
	return l.Switch.ReceiveXDP(l.Balancer.Name)
}

// configure gives out addresses and routes.
func (l *Lab) configure() error {
	var router, client, balancer []string
	router = append(router, join(netLAN, 1, "lan")...)
	client = append(client, join(netClient, 2, "eth0")...)
	client = append(client, routes("default", "default", netClient, 1)...)
	balancerLAN, lanDevice := netLAN, "eth0"
	if l.Interfaces == 2 {
		balancerLAN, lanDevice = netFront, "eth1"
		router = append(router, join(netFront, 1, l.Balancer.Name)...)
		balancer = append(balancer, join(netFront, 2, "eth0")...)
	}
	balancer = append(balancer, join(netLAN, 2, lanDevice)...)
	balancer = append(balancer, routes("default", "default", balancerLAN, 1)...)
	balancer = append(balancer, l.translation(lanDevice)...)

	vips4, vips6 := netVIPs.prefixes()
	sources4, sources6 := netSources.prefixes()
	router = append(router, routes(vips4.String(), vips6.String(), balancerLAN, 2)...)
	toClient := append(join(netClient, 1, "client"), routes(sources4.String(), sources6.String(), netClient, 2)...)
	client = append(client, "route add local "+sources4.String()+" dev lo", "route add local "+sources6.String()+" dev lo")

	batches := map[*Host][]string{l.Router: append(router, toClient...), l.Client: client, l.Balancer: balancer}
	if l.Access != nil {
		batches[l.Router] = append(router, l.transit()...)
		batches[l.Access] = slices.Concat(toClient, join(netTransit, 2, "eth0"), routes("default", "default", netTransit, 1))
	}
	for host, batch := range batches {
		if err := ipBatch(host, batch); err != nil {
			return err
		}
	}
	for i, b := range l.Backends {
		batch := join(netLAN, 11+i, "eth0")
		switch l.Return {
		case ReturnDirect:
			batch = append(batch, routes("default", "default", netLAN, 1)...)
		case ReturnGateway:
			batch = append(batch, routes("default", "default", netLAN, 2)...)
		}
		if err := ipBatch(b, batch); err != nil {
			return err
		}
	}
	return nil
}

// translation are the commands that prepare the balancer for answers that come back to it.
func (l *Lab) translation(device string) []string {
	var batch []string
	if l.Return == ReturnDirect {
		return batch
	}
	if l.Return == ReturnGateway {
		// A balancer that forwards would send what no VIP serves back to the router.
		v4, v6 := netVIPs.prefixes()
		batch = append(batch, "route add unreachable "+v4.String(), "route add unreachable "+v6.String())
	}
	v4, v6 := SNAT()
	for _, prefix := range []netip.Prefix{v4, v6} {
		for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
			// Not preferred: else IPv6 would pick one of them, as the one most like a
			// backend's, for what the balancer itself asks of the backend.
			batch = append(batch, fmt.Sprintf("address add %s/%d dev %s preferred_lft 0", a, a.BitLen(), device))
		}
	}
	return batch
}

// transit are the commands that connect the router with the access router.
func (l *Lab) transit() []string {
	batch := join(netTransit, 1, l.Access.Name)
	for _, behind := range []network{netClient, netSources} {
		v4, v6 := behind.prefixes()
		batch = append(batch, routes(v4.String(), v6.String(), netTransit, 2)...)
	}
	return batch
}

// waitUp waits until every device is up, its peer being so.
func (l *Lab) waitUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
	defer cancel()
	return WaitFor(ctx, "all devices are up", func() error {
		for _, h := range l.Hosts() {
			devices, err := h.devices()
			if err != nil {
				return err
			}
			for _, device := range devices {
				if state := device.Attrs().OperState; state != netlink.OperUp {
					return fmt.Errorf("%s of %s is %s", device.Attrs().Name, h.Name, state)
				}
			}
		}
		return nil
	})
}

// join are the commands that make a device the i-th host of a network.
func join(n network, i int, device string) []string {
	v4, v6 := n.host(i)
	return []string{
		"link set lo up",
		fmt.Sprintf("address add %s/24 dev %s", v4, device),
		fmt.Sprintf("address add %s/64 dev %s nodad", v6, device),
		fmt.Sprintf("address add fe80::%d/64 dev %s nodad", i, device),
		fmt.Sprintf("link set %s up", device),
	}
}

// routes are the commands that send two prefixes to the i-th host of a network.
func routes(to4, to6 string, n network, i int) []string {
	v4, v6 := n.host(i)
	return []string{
		fmt.Sprintf("route add %s via %s", to4, v4),
		fmt.Sprintf("route add %s via %s", to6, v6),
	}
}

// ip runs iproute2's ip.
func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// ipBatch runs many of ip's commands in one process, within a host unless that
// is nil.
func ipBatch(h *Host, commands []string) error {
	args := []string{"-batch", "-"}
	where := "ip -batch"
	if h != nil {
		args = append([]string{"-netns", h.NetNS}, args...)
		where += " in " + h.NetNS
	}
	cmd := exec.Command("ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s (of %s)", where, err, bytes.TrimSpace(out), strings.Join(commands, "; "))
	}
	return nil
}

package backend

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

const vip4, vip6 = "192.0.2.1", "2001:db8::1"

// labCombinations are those of the lab's segment, where the client is the balancer.
func labCombinations() []combination {
	const client4, client6 = "198.51.100.1", "2001:db8:51::1"
	const backend4, backend6 = "198.51.100.2", "2001:db8:51::2"
	return []combination{
		{"4in4", client4, backend4, client4, vip4},
		{"6in4", client4, backend4, client6, vip6},
		{"4in6", client6, backend6, client4, vip4},
		{"6in6", client6, backend6, client6, vip6},
	}
}

// TestTraffic sends encapsulated datagrams to a server on the VIP, which answers
// the client directly. The same from a source that is no balancer's goes nowhere.
func TestTraffic(t *testing.T) {
	for _, mode := range []model.XDPMode{model.XDPNative, model.XDPGeneric} {
		name := map[model.XDPMode]string{model.XDPNative: "native", model.XDPGeneric: "generic"}[mode]
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			o := options(vip4, vip6)
			o.Mode = mode
			r := l.backend.run(o)
			for _, e := range encapsulations() {
				for _, c := range labCombinations() {
					t.Run(e.name+" "+c.name, func(t *testing.T) { l.exchange(t, e, c) })
				}
			}
			r.stop(t)
			for _, want := range []string{
				"decapsulation program attached to eth0, " + name + " mode",
				"decapsulating IP in IP and GUE to UDP port 6080 that 198.51.100.1/32",
				"decapsulated 20 packets",
				"pass_not_balancer 20",
			} {
				if !strings.Contains(r.said(), want) {
					t.Errorf("not said: %q; said\n%s", want, r.said())
				}
			}
		})
	}
}

func (l *lab) exchange(t *testing.T, e encapsulation, c combination) {
	server := l.backend.udp(netip.AddrPortFrom(netip.MustParseAddr(c.vip), 53).String())
	client := l.client.udp(netip.AddrPortFrom(netip.MustParseAddr(c.client), 40000).String())
	defer server.Close()
	defer client.Close()
	wire := l.client.wire("eth0")

	stranger := "198.51.100.77"
	if netip.MustParseAddr(c.balancer).Is6() {
		stranger = "2001:db8:51::77"
	}
	send := func(source, payload string) {
		in := frame(t, 0, e.around(ip(source, c.backend, 0), c.inner(0),
			&layers.UDP{SrcPort: 40000, DstPort: 53}, gopacket.Payload(payload))...)
		if _, err := wire.Write(in); err != nil {
			t.Fatal(err)
		}
	}
	send(stranger, "from a stranger, not to be seen, long enough for a frame")
	send(c.balancer, "from a balancer, long enough for a frame")

	buffer := make([]byte, 2048)
	n, from, err := server.ReadFromUDPAddrPort(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(buffer[:n]); !strings.HasPrefix(got, "from a balancer") {
		t.Errorf("server got %q first", got)
	}
	if _, err := server.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	n, from, err = client.ReadFromUDPAddrPort(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(buffer[:n]); got != "answer" || from.Addr().Unmap() != netip.MustParseAddr(c.vip) {
		t.Errorf("client got %q from %v", got, from)
	}
}

// TestClaims watches the segment for the backend claiming the VIPs: by answering
// ARP or NDP for them, or by asking in their name.
func TestClaims(t *testing.T) {
	t.Run("backend", func(t *testing.T) {
		l := newLab(t)
		l.backend.run(options(vip4, vip6))
		l.wantClaims(t)
	})
	t.Run("control: the addresses alone", func(t *testing.T) {
		l := newLab(t)
		l.backend.addr("lo", vip4+"/32", vip6+"/128")
		l.wantClaims(t, "ARP reply for 192.0.2.1", "ARP request by 192.0.2.1")
	})
	t.Run("control: addresses of the interface", func(t *testing.T) {
		l := newLab(t)
		l.backend.addr("eth0", vip4+"/32", vip6+"/128")
		l.wantClaims(t, "ARP reply for 192.0.2.1", "ARP request by 192.0.2.1",
			"neighbour advertisement of 2001:db8::1", "neighbour solicitation by 2001:db8::1")
	})
}

// wantClaims asks for both VIPs and makes the backend send from both to addresses
// that it must resolve.
func (l *lab) wantClaims(t *testing.T, want ...string) {
	t.Helper()
	wire := l.client.wire("eth0")
	for vip, peer := range map[string]string{vip4: "198.51.100.77", vip6: "2001:db8:51::77"} {
		peerPort := netip.AddrPortFrom(netip.MustParseAddr(peer), 40000)
		client := l.client.udp(peerPort.String())
		server := l.backend.udp(netip.AddrPortFrom(netip.MustParseAddr(vip), 53).String())
		if _, err := server.WriteToUDPAddrPort([]byte("wake up"), peerPort); err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.ReadFromUDPAddrPort(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		client.Close()
		server.Close()
	}
	var got []string
	for _, ask := range [][]byte{
		arpRequest(t, vip4), arpRequest(t, "198.51.100.2"),
		solicitation(t, vip6, true), solicitation(t, vip6, false), solicitation(t, "2001:db8:51::2", true),
	} {
		if _, err := wire.Write(ask); err != nil {
			t.Fatal(err)
		}
	}
	// The backend answers in order: when it has answered for what is its own, it
	// has had its chance to answer for the VIPs.
	pending := []string{"ARP reply for 198.51.100.2", "neighbour advertisement of 2001:db8:51::2"}
	buffer := make([]byte, 2048)
	for len(pending) > 0 {
		n, err := wire.Read(buffer)
		if err != nil {
			t.Fatalf("waiting for %v: %v", pending, err)
		}
		claim := claimIn(buffer[:n])
		pending = slices.DeleteFunc(pending, func(p string) bool { return p == claim })
		if strings.HasSuffix(claim, " "+vip4) || strings.HasSuffix(claim, " "+vip6) {
			got = append(got, claim)
		}
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("claims %q, want %q", got, want)
	}
}

func arpRequest(t *testing.T, target string) []byte {
	return framed(t, &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: []byte{2, 0, 0, 0, 0, 1}, SourceProtAddress: []byte{198, 51, 100, 1},
			DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(target).AsSlice()})
}

// solicitation asks for an IPv6 address, by its multicast group or at the
// backend's own MAC address.
func solicitation(t *testing.T, target string, multicast bool) []byte {
	addr := netip.MustParseAddr(target).As16()
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv6}
	h := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255,
		SrcIP: net.ParseIP("2001:db8:51::1"), DstIP: addr[:]}
	if multicast {
		eth.DstMAC = []byte{0x33, 0x33, 0xff, addr[13], addr[14], addr[15]}
		h.DstIP = append(net.ParseIP("ff02::1:ff00:0")[:13], addr[13:]...)
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(h); err != nil {
		t.Fatal(err)
	}
	return framed(t, eth, h, icmp, &layers.ICMPv6NeighborSolicitation{TargetAddress: addr[:], Options: layers.ICMPv6Options{
		{Type: layers.ICMPv6OptSourceAddress, Data: []byte{2, 0, 0, 0, 0, 1}}}})
}

func framed(t *testing.T, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// claimIn says which address a frame of the backend claims, if any.
func claimIn(b []byte) string {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if eth, ok := p.LinkLayer().(*layers.Ethernet); !ok || eth.SrcMAC[5] != 2 {
		return ""
	}
	if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		sender := net.IP(arp.SourceProtAddress)
		if arp.Operation == layers.ARPReply {
			return fmt.Sprintf("ARP reply for %s", sender)
		}
		return fmt.Sprintf("ARP request by %s", sender)
	}
	if na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok {
		return fmt.Sprintf("neighbour advertisement of %s", na.TargetAddress)
	}
	if p.Layer(layers.LayerTypeICMPv6NeighborSolicitation) != nil {
		return fmt.Sprintf("neighbour solicitation by %s", p.NetworkLayer().(*layers.IPv6).SrcIP)
	}
	return ""
}

// TestChangesAndUndo compares all that could change before, during and after.
func TestChangesAndUndo(t *testing.T) {
	l := newLab(t)
	before := l.backend.snapshot()
	r := l.backend.run(options(vip4, vip6))
	got := difference(before, l.backend.snapshot())
	want := []string{
		"ipv4/conf/all/arp_announce: 0 -> 2",
		"ipv4/conf/all/arp_ignore: 0 -> 1",
		"ipv4/conf/eth0/arp_announce: 0 -> 2",
		"ipv4/conf/eth0/arp_ignore: 0 -> 1",
		fmt.Sprintf("lo 192.0.2.1/32:  -> scope %d, flags %#x, preferred %d", unix.RT_SCOPE_HOST, unix.IFA_F_PERMANENT, uint32(1<<32-1)),
		fmt.Sprintf("lo 2001:db8::1/128:  -> scope 0, flags %#x, preferred 0", unix.IFA_F_PERMANENT|unix.IFA_F_NODAD|unix.IFA_F_DEPRECATED),
		"xdp eth0: false -> true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("changed %q\nwant    %q", got, want)
	}
	during := r.said()
	r.stop(t)
	if left := difference(before, l.backend.snapshot()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	for _, line := range []string{"192.0.2.1 added to lo", "net.ipv4.conf.all.arp_ignore set to 1, was 0", "attached to eth0, native mode"} {
		if !strings.Contains(during, line) {
			t.Errorf("not said: %q; said\n%s", line, during)
		}
	}
	for _, line := range []string{"192.0.2.1 removed from lo", "net.ipv4.conf.all.arp_ignore set back to 0", "detached from eth0", "decapsulated 0 packets"} {
		if !strings.Contains(r.said(), line) {
			t.Errorf("not said: %q; said\n%s", line, r.said())
		}
	}
}

// TestIPv6Alone needs no ARP settings, and dsr-l2 no program.
func TestIPv6Alone(t *testing.T) {
	l := newLab(t)
	before := l.backend.snapshot()
	o := options(vip6)
	o.Decap, o.Balancers = false, nil
	r := l.backend.run(o)
	if got := difference(before, l.backend.snapshot()); len(got) != 1 || !strings.HasPrefix(got[0], "lo 2001:db8::1/128") {
		t.Errorf("changed %q", got)
	}
	r.stop(t)
}

// TestLeavesOthersWork leaves alone what was there before and what somebody
// else changed meanwhile.
func TestLeavesOthersWork(t *testing.T) {
	l := newLab(t)
	l.backend.addr("lo", vip4+"/32")
	l.backend.sysctl("ipv4/conf/all/arp_ignore", "2")
	before := l.backend.snapshot()
	r := l.backend.run(options(vip4, vip6))
	l.backend.sysctl("ipv4/conf/eth0/arp_ignore", "8")
	l.backend.delAddr("lo", vip6+"/128")
	r.stop(t)
	if left := difference(before, l.backend.snapshot()); !slices.Equal(left, []string{"ipv4/conf/eth0/arp_ignore: 0 -> 8"}) {
		t.Errorf("left behind: %q", left)
	}
	for _, line := range []string{
		"192.0.2.1 is on lo already", "net.ipv4.conf.all.arp_ignore is 2 already",
		"net.ipv4.conf.eth0.arp_ignore is 8 now", "2001:db8::1 is no longer on lo",
	} {
		if !strings.Contains(r.said(), line) {
			t.Errorf("not said: %q; said\n%s", line, r.said())
		}
	}
}

// TestAfterKill starts again where a helper was killed.
func TestAfterKill(t *testing.T) {
	l := newLab(t)
	cmd := l.backend.startChild(vip4, vip6)
	if !l.backend.link("eth0").Attrs().Xdp.Attached {
		t.Error("the child attached nothing")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	eventually(t, "detachment", func() bool { return !l.backend.link("eth0").Attrs().Xdp.Attached })
	left := l.backend.snapshot()
	l.wantClaims(t)

	r := l.backend.run(options(vip4, vip6))
	for _, e := range encapsulations() {
		for _, c := range labCombinations() {
			l.exchange(t, e, c)
		}
	}
	r.stop(t)
	if changed := difference(left, l.backend.snapshot()); len(changed) > 0 {
		t.Errorf("changed what the killed one left: %q", changed)
	}
	if n := strings.Count(r.said(), "left as it is, at the end too"); n != 6 {
		t.Errorf("said\n%s", r.said())
	}
}

// TestFallsBackToGeneric attaches where the driver has no XDP.
func TestFallsBackToGeneric(t *testing.T) {
	l := newLab(t)
	macvlan := netlink.LinkAttrs{Name: "mac.0", ParentIndex: l.backend.link("eth0").Attrs().Index}
	l.backend.must(l.backend.LinkAdd(&netlink.Macvlan{LinkAttrs: macvlan, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	o := options(vip4)
	o.Interfaces = []string{"mac.0"}
	r := l.backend.run(o)
	r.stop(t)
	for _, line := range []string{"warning: mac.0: the driver cannot run XDP natively", "attached to mac.0, generic mode", "net.ipv4.conf.mac/0.arp_ignore set to 1"} {
		if !strings.Contains(r.said(), line) {
			t.Errorf("not said: %q; said\n%s", line, r.said())
		}
	}
	o.Mode = model.XDPNative
	if _, err := l.backend.start(o); err == nil || !strings.Contains(err.Error(), "attach the decapsulation program to mac.0") {
		t.Errorf("native on macvlan: %v", err)
	}
}

// TestGUEOff: the kernel, which has no tunnel here, gets the datagrams.
func TestGUEOff(t *testing.T) {
	l := newLab(t)
	o := options(vip4)
	o.GUEPort = 0
	r := l.backend.run(o)
	c := labCombinations()[0]
	server := l.backend.udp(vip4 + ":53")
	kernels := l.backend.udp(c.backend + ":6080")
	send := func(e encapsulation, payload string) {
		in := frame(t, 0, e.around(c.outer(0), c.inner(0), &layers.UDP{SrcPort: 40000, DstPort: 53}, gopacket.Payload(payload))...)
		if _, err := l.client.wire("eth0").Write(in); err != nil {
			t.Fatal(err)
		}
	}
	send(encapsulations()[1], "by GUE, long enough for a frame")
	send(encapsulations()[0], "by IP in IP, long enough for a frame")
	for conn, want := range map[*net.UDPConn]string{server: "by IP in IP", kernels: "by GUE"} {
		buffer := make([]byte, 2048)
		n, _, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil || !strings.Contains(string(buffer[:n]), want) {
			t.Errorf("%v got %q first, want %q (%v)", conn.LocalAddr(), buffer[:n], want, err)
		}
	}
	r.stop(t)
	if !strings.Contains(r.said(), "decapsulating IP in IP that") {
		t.Errorf("said\n%s", r.said())
	}
}

// TestAdvisesSegments: the advice is there where it helps, and not where routes
// follow it already.
func TestAdvisesSegments(t *testing.T) {
	const ipv4, ipv6 = "IPv4 routes 'advmss ", "IPv6 routes 'advmss "
	for _, row := range []struct {
		name             string
		mtu, mss4, mss6  int // mss: of the default routes, 0: as the kernel likes, -1: no such route
		guePort          uint16
		balancers        []string
		advice, noAdvice []string
	}{
		{"GUE in IPv6", 1500, 0, 0, guePort, []string{"198.51.100.1/32", "2001:db8:51::1/128"}, []string{ipv4 + "1408'", ipv6 + "1388'"}, nil},
		{"GUE in IPv4", 1500, 0, 0, guePort, []string{"198.51.100.1/32"}, []string{ipv4 + "1428'", ipv6 + "1408'"}, nil},
		{"IPIP in IPv6", 1500, 0, 0, 0, []string{"2001:db8:51::1/128"}, []string{ipv4 + "1420'", ipv6 + "1400'"}, nil},
		{"IPIP in IPv4", 1500, 0, 0, 0, []string{"198.51.100.1/32"}, []string{ipv4 + "1440'", ipv6 + "1420'"}, nil},
		{"no default routes", 1500, -1, -1, guePort, []string{"198.51.100.1/32"}, []string{ipv4 + "1428'", ipv6 + "1408'"}, nil},
		{"followed", 1500, 1428, 1300, guePort, []string{"198.51.100.1/32"}, nil, []string{ipv4, ipv6}},
		{"one byte too many", 1500, 1429, 1408, guePort, []string{"198.51.100.1/32"}, []string{ipv4 + "1428'"}, []string{ipv6}},
		{"wide", 1532, 0, 0, guePort, []string{"198.51.100.1/32"}, nil, []string{ipv4, ipv6}},
		{"a byte too narrow", 1531, 0, 0, guePort, []string{"198.51.100.1/32"}, []string{ipv4 + "1459'", ipv6 + "1439'"}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := newLab(t)
			l.backend.must(l.backend.LinkSetMTU(l.backend.link("eth0"), row.mtu))
			for gateway, mss := range map[string]int{"198.51.100.1": row.mss4, "2001:db8:51::1": row.mss6} {
				if mss >= 0 {
					l.backend.must(l.backend.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway), AdvMSS: mss}))
				}
			}
			o := options(vip4, vip6)
			o.GUEPort, o.Balancers = row.guePort, nil
			for _, b := range row.balancers {
				o.Balancers = append(o.Balancers, netip.MustParsePrefix(b))
			}
			r := l.backend.run(o)
			r.stop(t)
			for _, want := range row.advice {
				if !strings.Contains(r.said(), want) {
					t.Errorf("not said: %q; said\n%s", want, r.said())
				}
			}
			for _, never := range row.noAdvice {
				if strings.Contains(r.said(), never) {
					t.Errorf("said %q:\n%s", never, r.said())
				}
			}
		})
	}
}

func TestWarnsOfStrictFilter(t *testing.T) {
	for _, row := range []struct {
		all, own string
		warn     bool
	}{{"0", "0", false}, {"0", "1", true}, {"1", "0", true}, {"1", "2", false}, {"2", "1", false}} {
		l := newLab(t)
		l.backend.sysctl("ipv4/conf/all/rp_filter", row.all)
		l.backend.sysctl("ipv4/conf/eth0/rp_filter", row.own)
		r := l.backend.run(options(vip4))
		r.stop(t)
		if warned := strings.Contains(r.said(), "warning: net.ipv4.conf.eth0.rp_filter"); warned != row.warn {
			t.Errorf("%+v: said\n%s", row, r.said())
		}
	}
}

// TestRefuses checks that an error says what to do and that nothing is changed.
func TestRefuses(t *testing.T) {
	prefixes := func(s ...string) func(*machine, *Options) {
		return func(_ *machine, o *Options) {
			o.Balancers = nil
			for _, p := range s {
				o.Balancers = append(o.Balancers, netip.MustParsePrefix(p))
			}
		}
	}
	vips := func(s ...string) func(*machine, *Options) {
		return func(_ *machine, o *Options) { o.VIPs = options(s...).VIPs }
	}
	for _, row := range []struct {
		name    string
		prepare func(*machine, *Options)
		want    string
	}{
		{"no VIP", vips(), "--vip"},
		{"VIP twice", vips(vip4, vip6, vip4), "192.0.2.1 is there twice"},
		{"mapped VIP", vips("::ffff:192.0.2.1"), "IPv4-mapped; write 192.0.2.1"},
		{"multicast VIP", vips("ff02::1"), "multicast"},
		{"loopback VIP", vips("127.0.0.1"), "loopback"},
		{"no interface named", func(_ *machine, o *Options) { o.Interfaces = nil }, "--interface"},
		{"interface twice", func(_ *machine, o *Options) { o.Interfaces = []string{"eth0", "eth0"} }, "eth0 is there twice"},
		{"no such interface", func(_ *machine, o *Options) { o.Interfaces = []string{"eth0", "eth7"} }, `no interface "eth7"`},
		{"no balancer", prefixes(), "--balancer"},
		{"everybody balances", prefixes("0.0.0.0/0"), "is everybody"},
		{"every IPv6 address balances", prefixes("::/0"), "is everybody"},
		{"the mapped balance", prefixes("::/8"), "IPv4-mapped"},
		{"mapped balancer", prefixes("::ffff:10.0.0.1/128"), "IPv4-mapped"},
		{"no such mode", func(_ *machine, o *Options) { o.Mode = 7 }, "XDP mode"},
		{"VIP on the segment", func(m *machine, _ *Options) { m.addr("eth0", vip6+"/64") },
			"VIP 2001:db8::1 is an address of eth0, where this host claims it for itself; take it off with 'ip address del 2001:db8::1/64 dev eth0'"},
		{"loopback down", func(m *machine, _ *Options) { m.must(m.LinkSetDown(m.link("lo"))) }, "ip link set lo up"},
		{"IPv6 off", func(m *machine, _ *Options) { m.sysctl("ipv6/conf/lo/disable_ipv6", "1") }, "net.ipv6.conf.lo.disable_ipv6"},
		{"another XDP program", func(m *machine, _ *Options) { m.occupy("eth0") }, "another XDP program"},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := newLab(t)
			o := options(vip4, vip6)
			row.prepare(l.backend, &o)
			before := l.backend.snapshot()
			r, err := l.backend.start(o)
			if err == nil {
				r.stop(t)
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("%q does not say %q", err, row.want)
			}
			if left := difference(before, l.backend.snapshot()); len(left) > 0 {
				t.Errorf("changed %q", left)
			}
		})
	}
}

// occupy attaches another program, until the end of the test.
func (m *machine) occupy(name string) {
	d := newDecapsulator(m.t, 0)
	m.do(func() error {
		a, err := xdp.Attach(d.objects.SteelyardDecap, name, m.link(name).Attrs().Index, model.XDPGeneric)
		if err == nil {
			m.t.Cleanup(func() { a.Close() })
		}
		return err
	})
}

// TestNoPermission runs without capabilities, as root in name only.
func TestNoPermission(t *testing.T) {
	for _, decap := range []bool{true, false} {
		l := newLab(t)
		before := l.backend.snapshot()
		o := options(vip4, vip6)
		o.Decap = decap
		r := &running{}
		o.Say = r.say
		err := l.backend.Do(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				return err
			}
			return Run(t.Context(), o, func() { t.Error("ready") })
		})
		if err == nil || !strings.Contains(err.Error(), "run as root, or with CAP_BPF, CAP_NET_ADMIN") {
			t.Errorf("decap %v: %v", decap, err)
		}
		if left := difference(before, l.backend.snapshot()); len(left) > 0 {
			t.Errorf("decap %v: changed %q; said\n%s", decap, left, r.said())
		}
	}
}

// TestDescriptors counts them around runs that succeed and runs that fail.
func TestDescriptors(t *testing.T) {
	l := newLab(t)
	l.backend.run(options(vip4, vip6)).stop(t)
	before := descriptors(t)
	for range 5 {
		l.backend.run(options(vip4, vip6)).stop(t)
		o := options(vip4, vip6)
		o.Interfaces = []string{"eth0", "lo"}
		o.Mode = model.XDPNative
		if _, err := l.backend.start(o); err == nil {
			t.Fatal("the loopback interface has no native XDP")
		}
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("descriptors %q, before %q", after, before)
	}
}

func descriptors(t *testing.T) []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			out = append(out, target)
		}
	}
	slices.Sort(out)
	return out
}

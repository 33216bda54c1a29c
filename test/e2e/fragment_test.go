package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	iperfPort = "5201"
	// datagramBytes make six fragments each, and blocks of them one measurement.
	datagramBytes = 8000
	blocks        = 200
)

// TestDatagramsInFragments sends datagrams of 8000 bytes by iperf3, whose control
// connection has to reach the same backend as they: two VIPs of a pool with one
// affinity. There every datagram is put together, and read unless the server is slow.
func TestDatagramsInFragments(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{}, vip4, vip6)
	for _, b := range r.Backends {
		for _, vip := range []netip.Addr{vip4, vip6} {
			server, err := b.Start("iperf3-"+vip.String(), "iperf3", "--server", "--bind", vip.String(), "--port", iperfPort, "--forceflush")
			r.must(err)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			r.must(server.WaitReady(ctx, func() error {
				if log := server.LogTail(); !strings.Contains(log, "Server listening") {
					return fmt.Errorf("it says %q", log)
				}
				return nil
			}))
		}
	}
	r.addPools()
	for pool, vip := range map[string]netip.Addr{"v4": vip4, "v6": vip6} {
		for _, protocol := range []string{"tcp", "udp"} {
			at := netip.AddrPortFrom(vip, 5201).String()
			r.cli("vip", "add", protocol+pool, at, "--protocol", protocol, "--pool", pool, "--affinity", "pool")
		}
	}
	for i, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			for _, protocol := range []string{"tcp", "udp"} {
				on.cli("vip", "set", protocol+w.pool, "--mode", w.mode)
			}
			vip := map[string]netip.Addr{"v4": vip4, "v6": vip6}[w.pool]
			before := on.reassembled()
			lost := on.iperf(vip, source(vip, 10+i))
			on.wait("one backend has put all datagrams together", func() error {
				served := map[string]int{}
				for b, after := range on.reassembled() {
					whole, full := after.whole-before[b].whole, after.full-before[b].full
					if whole == 0 {
						continue
					}
					served[b.Name] = whole
					if lost > full {
						return fmt.Errorf("%d are lost, %d of them because the server's socket was full", lost, full)
					}
				}
				if got := slices.Collect(maps.Values(served)); !slices.Equal(got, []int{blocks}) {
					return fmt.Errorf("so far: %v", served)
				}
				return nil
			})
		})
	}
	if n := r.status().Reasons["drop_fragment_early"]; n > 0 {
		t.Errorf("%d fragments came early", n)
	}
}

// iperf sends datagrams from an address of the client's and returns how many the
// server has missed.
func (r *rig) iperf(to, from netip.Addr) int {
	r.t.Helper()
	out, err := r.Client.Run("iperf3", "--client", to.String(), "--port", iperfPort, "--bind", from.String(), "--udp", "--json",
		"--length", fmt.Sprint(datagramBytes), "--blockcount", fmt.Sprint(blocks), "--bitrate", "40M", "--window", "400K", "--connect-timeout", "5000")
	var report struct {
		Error string `json:"error"`
		End   struct {
			Sum struct {
				Packets int `json:"packets"`
				Lost    int `json:"lost_packets"`
			} `json:"sum"`
		} `json:"end"`
	}
	if json := json.Unmarshal([]byte(out), &report); err != nil || json != nil {
		r.t.Fatalf("iperf3 to %s: %v, %s", to, err, report.Error)
	}
	// The server does not count those that come after its client has said that it is done.
	sum := report.End.Sum
	r.t.Logf("%d of %d datagrams are counted, %d of them lost", sum.Packets, blocks, sum.Lost)
	if sum.Packets == 0 {
		r.t.Errorf("no datagram reached %s", to)
	}
	return sum.Lost
}

// datagrams are those that a host has put together from fragments, and those of all
// that a full socket has lost.
type datagrams struct{ whole, full int }

func (r *rig) reassembled() map[*lab.Host]datagrams {
	r.t.Helper()
	n := map[*lab.Host]datagrams{}
	for _, b := range r.Backends {
		n[b] = datagrams{r.nstat(b, "IpReasmOKs", "Ip6ReasmOKs"), r.nstat(b, "UdpRcvbufErrors", "Udp6RcvbufErrors")}
	}
	return n
}

// nstat is the sum of some of the kernel's counters on a host.
func (r *rig) nstat(h *lab.Host, counters ...string) int {
	r.t.Helper()
	out, err := h.Run("nstat", append([]string{"-asz"}, counters...)...)
	r.must(err)
	sum := 0
	for line := range strings.Lines(out) {
		var name string
		var n int
		if fields, _ := fmt.Sscan(line, &name, &n); fields == 2 && slices.Contains(counters, name) {
			sum += n
		}
	}
	return sum
}

// TestFragmentOrder sends fragments in any order. What a VIP asks for decides about
// those that come before the first of their packet.
func TestFragmentOrder(t *testing.T) {
	t.Parallel()
	all := ways()
	r := startWith(t, lab.Options{}, setup{vips: vipsOf(all)})
	for _, w := range all {
		r.echo(w.vip)
	}
	r.addPools()
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			on.cli("vip", "add", w.name, netip.AddrPortFrom(w.vip, echoPort).String(), "--protocol", "udp", "--mode", w.mode, "--pool", w.pool)
			on.interleaved(w.vip)
			on.early(w)
		})
	}
}

// interleaved sends packets of several flows at the same time, their first fragments
// first: all reach the backend that the flow's whole packets reach.
func (r *rig) interleaved(vip netip.Addr) {
	r.t.Helper()
	const flows = 30
	var conns []net.Conn
	var whole []string
	var rounds [3][][]byte
	for i := range flows {
		conn := r.dialEcho(vip, source(vip, 1+i))
		conns = append(conns, conn)
		whole = append(whole, r.ask(conn))
		for f, fragment := range fragments(r.t, conn, uint32(i+1)) {
			rounds[f] = append(rounds[f], fragment)
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(whole)))) < 2 {
		r.t.Errorf("all of %d flows reach %s", flows, whole[0])
	}
	r.sendRaw(vip, slices.Concat(rounds[0], rounds[2], rounds[1])...)
	for i, conn := range conns {
		if got, err := r.answer(conn, patience); err != nil || got != whole[i] {
			r.t.Errorf("in fragments, a packet to %s reaches %q, whole %s: %v", vip, got, whole[i], err)
		}
	}
}

// early sends the last fragment first.
func (r *rig) early(w way) {
	r.t.Helper()
	send := func(conn net.Conn, id uint32) {
		f := fragments(r.t, conn, id)
		r.sendRaw(w.vip, f[2], f[0], f[1])
	}
	// It is dropped with the default policy, and nobody can put the packet together.
	conn := r.dialEcho(w.vip, source(w.vip, 50))
	before := r.status().Reasons["drop_fragment_early"]
	send(conn, 100)
	r.wait("the early fragment is dropped", func() error {
		if got := r.status().Reasons["drop_fragment_early"] - before; got != 1 {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
	if got, err := r.answer(conn, 100*time.Millisecond); err == nil {
		r.t.Errorf("a packet without its last fragment is answered by %s", got)
	}

	r.cli("vip", "set", w.name, "--fragments", "hash", "--affinity", "source")
	before = r.status().Reasons["drop_fragment_early"]
	for i := range 10 {
		conn := r.dialEcho(w.vip, source(w.vip, 60+i))
		whole := r.ask(conn)
		send(conn, uint32(200+i))
		if got, err := r.answer(conn, patience); err != nil || got != whole {
			r.t.Errorf("with the last fragment first, a packet to %s reaches %q, whole %s: %v", w.vip, got, whole, err)
		}
	}
	if got := r.status().Reasons["drop_fragment_early"] - before; got > 0 {
		r.t.Errorf("%d early fragments are dropped in spite of fragments: hash", got)
	}
}

const (
	echoPort = 7
	// fragmentBytes is the size of a fragment's part of its packet.
	fragmentBytes = 1000
)

// question makes three fragments.
func question() []byte { return bytes.Repeat([]byte("steelyard "), 250) }

// echo answers a question at an address of every backend with the backend's name,
// until the test ends.
func (r *rig) echo(vip netip.Addr) {
	r.t.Helper()
	for _, b := range r.Backends {
		socket, err := b.ListenUDP(netip.AddrPortFrom(vip, echoPort))
		r.must(err)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			buffer := make([]byte, 1<<16)
			for {
				n, from, err := socket.ReadFromUDPAddrPort(buffer)
				if err != nil {
					return
				}
				if bytes.Equal(buffer[:n], question()) {
					// One that is lost is missed by who asked.
					socket.WriteToUDPAddrPort([]byte(b.Name), from)
				}
			}
		}()
		r.t.Cleanup(func() {
			socket.Close()
			<-ended
		})
	}
}

func (r *rig) dialEcho(vip, from netip.Addr) net.Conn {
	r.t.Helper()
	conn, err := r.Client.Dial(r.t.Context(), "udp", netip.AddrPortFrom(vip, echoPort).String(), from)
	r.must(err)
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// ask asks as a program does, and returns who answers.
func (r *rig) ask(conn net.Conn) string {
	r.t.Helper()
	_, err := conn.Write(question())
	r.must(err)
	name, err := r.answer(conn, patience)
	r.must(err)
	return name
}

func (r *rig) answer(conn net.Conn, patience time.Duration) (string, error) {
	r.t.Helper()
	r.must(conn.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 100)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// fragments are a question on a connection, in three fragments.
func fragments(t *testing.T, conn net.Conn, id uint32) [][]byte {
	t.Helper()
	from, to := conn.LocalAddr().(*net.UDPAddr).AddrPort(), conn.RemoteAddr().(*net.UDPAddr).AddrPort()
	ip4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, Id: uint16(id), SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolIPv6Fragment, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
	var err error
	if from.Addr().Is4() {
		err = udp.SetNetworkLayerForChecksum(ip4)
	} else {
		whole := *ip6
		whole.NextHeader = layers.IPProtocolUDP
		err = udp.SetNetworkLayerForChecksum(&whole)
	}
	if err != nil {
		t.Fatal(err)
	}
	serialize := func(l ...gopacket.SerializableLayer) []byte {
		buffer := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
			t.Fatal(err)
		}
		return slices.Clone(buffer.Bytes())
	}
	datagram := serialize(udp, gopacket.Payload(question()))
	var all [][]byte
	for at := 0; at < len(datagram); at += fragmentBytes {
		part := datagram[at:min(at+fragmentBytes, len(datagram))]
		last := at+fragmentBytes >= len(datagram)
		if from.Addr().Is4() {
			head := *ip4
			head.FragOffset = uint16(at / 8)
			if !last {
				head.Flags = layers.IPv4MoreFragments
			}
			all = append(all, serialize(&head, gopacket.Payload(part)))
			continue
		}
		offset := at
		if !last {
			offset |= 1
		}
		head := []byte{byte(layers.IPProtocolUDP), 0, byte(offset >> 8), byte(offset), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
		all = append(all, serialize(ip6, gopacket.Payload(append(head, part...))))
	}
	return all
}

// sendRaw sends IP packets from the client as they are.
func (r *rig) sendRaw(to netip.Addr, packets ...[]byte) {
	r.t.Helper()
	r.must(r.Client.Do(func() error {
		family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16()})
		if to.Is4() {
			family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4()}
		}
		// Of this protocol, packets bring their own IP header.
		socket, err := unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("make a raw socket: %w", err)
		}
		defer unix.Close(socket)
		for _, packet := range packets {
			if err := unix.Sendto(socket, packet, 0, address); err != nil {
				return fmt.Errorf("send a packet of %d bytes to %s: %w", len(packet), to, err)
			}
		}
		return nil
	}))
}

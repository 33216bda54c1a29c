package connections_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// A flood comes in bursts, so slow that queues do not overflow: what is to
	// be filled is the flow table.
	burst      = 50
	burstEvery = time.Millisecond
	// floodSources is how many addresses it comes from, at most: as many as 172.16.0.0/12 has.
	floodSources = 1 << 20
)

// flood sends openers to a VIP from the client, each from an address of its
// own: SYNs or QUIC Initials, which no server can do anything with.
func flood(t *testing.T, l *lab.Lab, target netip.AddrPort, kind transport, n int) {
	t.Helper()
	floodBy(t, l, routerMAC(t, l), target, kind, n)
}

// floodBy sends them to a MAC address on the client's link.
func floodBy(t *testing.T, l *lab.Lab, by net.HardwareAddr, target netip.AddrPort, kind transport, n int) {
	t.Helper()
	if n > floodSources {
		t.Fatalf("a flood of %d openers: at most %d have an address of their own", n, floodSources)
	}
	var device *net.Interface
	socket := -1
	err := l.Client.Do(func() (err error) {
		if device, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: receives nothing
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	to := &unix.SockaddrLinklayer{Ifindex: device.Index}
	frame := openerFrame(device.HardwareAddr, by, target, kind)
	tick := time.NewTicker(burstEvery)
	defer tick.Stop()
	for i := range n {
		setSource(frame, uint32(i))
		err := unix.Sendto(socket, frame, 0, to)
		for errors.Is(err, unix.ENOBUFS) {
			<-tick.C
			err = unix.Sendto(socket, frame, 0, to)
		}
		if err != nil {
			t.Fatalf("send opener %d of %d: %v", i, n, err)
		}
		if i%burst == burst-1 {
			<-tick.C
		}
	}
}

// routerMAC is the address of the router's end of the client's link.
func routerMAC(t *testing.T, l *lab.Lab) (mac net.HardwareAddr) {
	t.Helper()
	err := l.Router.Do(func() error {
		device, err := net.InterfaceByName("client")
		if err == nil {
			mac = device.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

const (
	ipHeader   = 14
	ipv4Length = 20
	ipv6Length = 40
	tcpLength  = 20
	udpLength  = 8
	// initialLength is that of what passes for an Initial at first sight.
	initialLength = 32
)

// openerFrame is an Ethernet frame with an opener that lacks a source and checksums.
func openerFrame(from, to net.HardwareAddr, target netip.AddrPort, kind transport) []byte {
	protocol, segment := byte(unix.IPPROTO_TCP), make([]byte, tcpLength)
	if kind != tcp {
		protocol, segment = unix.IPPROTO_UDP, make([]byte, udpLength+initialLength)
	}
	binary.BigEndian.PutUint16(segment[2:], target.Port())
	if protocol == unix.IPPROTO_UDP {
		// RFC 9000, section 17.2.2.
		binary.BigEndian.PutUint16(segment[4:], uint16(len(segment)))
		initial := segment[udpLength:]
		initial[0] = 0xc0                            // long header, Initial
		binary.BigEndian.PutUint32(initial[1:], 1)   // version
		initial[5] = 8                               // length of the destination connection ID
		binary.BigEndian.PutUint64(initial[6:], 1e9) // as good as any
	} else {
		segment[12], segment[13] = 5<<4, 0x02 // 5 words; SYN
		binary.BigEndian.PutUint16(segment[14:], 65535)
	}
	return slices.Concat(to, from, openerHeader(target.Addr(), protocol, len(segment)), segment)
}

// openerHeader is EtherType and IP header before so many bytes of a protocol.
func openerHeader(target netip.Addr, protocol byte, length int) []byte {
	if target.Is6() {
		ip := binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
		ip = binary.BigEndian.AppendUint16(append(ip, 0x60, 0, 0, 0), uint16(length))
		return slices.Concat(ip, []byte{protocol, 64}, make([]byte, 16), target.AsSlice())
	}
	ip := binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
	ip = binary.BigEndian.AppendUint16(append(ip, 0x45, 0), uint16(ipv4Length+length))
	return slices.Concat(ip, []byte{0, 0, 0, 0, 64, protocol, 0, 0}, make([]byte, 4), target.AsSlice())
}

// setSource makes the frame come from the i-th address of 172.16.0.0/12, or of
// 2001:db8:f::/64.
func setSource(frame []byte, i uint32) {
	ip, segment := frame[ipHeader:ipHeader+ipv4Length], frame[ipHeader+ipv4Length:]
	protocol, addresses := ip[9], ip[12:]
	if ip[0]>>4 == 6 {
		ip, segment = frame[ipHeader:ipHeader+ipv6Length], frame[ipHeader+ipv6Length:]
		protocol, addresses = ip[6], ip[8:]
		binary.BigEndian.PutUint64(addresses, 0x20010db8000f0000)
		binary.BigEndian.PutUint64(addresses[8:], uint64(i)+1)
	} else {
		binary.BigEndian.PutUint32(addresses, 172<<24|16<<16|i)
		clear(ip[10:12])
		binary.BigEndian.PutUint16(ip[10:], ^checksum(0, ip))
	}
	binary.BigEndian.PutUint16(segment, uint16(1024+i%60000))
	at := 6
	if protocol == unix.IPPROTO_TCP {
		binary.BigEndian.PutUint32(segment[4:], i)
		at = 16
	}
	clear(segment[at : at+2])
	pseudo := checksum(uint32(protocol)+uint32(len(segment)), addresses)
	binary.BigEndian.PutUint16(segment[at:], ^checksum(uint32(pseudo), segment))
}

// checksum adds up words in one's complement (RFC 1071). The length is even.
func checksum(sum uint32, data []byte) uint16 {
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

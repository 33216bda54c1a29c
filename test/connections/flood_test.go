package connections_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
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
	// floodSources is how many addresses it comes from, at most: those of 172.16.0.0/12.
	floodSources = 1 << 20
)

// flood sends openers to an IPv4 VIP from the client, each from an address of its
// own: SYNs or QUIC Initials, which no server can do anything with.
func flood(t *testing.T, l *lab.Lab, target netip.AddrPort, kind transport, n int) {
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
	frame := openerFrame(device.HardwareAddr, routerMAC(t, l), target, kind)
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
	ipHeader        = 14
	transportHeader = ipHeader + 20
	tcpLength       = 20
	udpLength       = 8
	// initialLength is that of what passes for an Initial at first sight.
	initialLength = 32
)

// openerFrame is an Ethernet frame with an opener that lacks a source and checksums.
func openerFrame(from, to net.HardwareAddr, target netip.AddrPort, kind transport) []byte {
	protocol, length := byte(unix.IPPROTO_TCP), tcpLength
	if kind != tcp {
		protocol, length = unix.IPPROTO_UDP, udpLength+initialLength
	}
	frame := make([]byte, transportHeader+length)
	copy(frame, to)
	copy(frame[6:], from)
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
	ip, segment := frame[ipHeader:transportHeader], frame[transportHeader:]
	ip[0] = 0x45 // version 4, 5 words
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+length))
	ip[8], ip[9] = 64, protocol
	copy(ip[16:], target.Addr().AsSlice())
	binary.BigEndian.PutUint16(segment[2:], target.Port())
	if protocol == unix.IPPROTO_UDP {
		// No checksum; RFC 9000, section 17.2.2.
		binary.BigEndian.PutUint16(segment[4:], uint16(length))
		initial := segment[udpLength:]
		initial[0] = 0xc0                            // long header, Initial
		binary.BigEndian.PutUint32(initial[1:], 1)   // version
		initial[5] = 8                               // length of the destination connection ID
		binary.BigEndian.PutUint64(initial[6:], 1e9) // as good as any
		return frame
	}
	segment[12], segment[13] = 5<<4, 0x02 // 5 words; SYN
	binary.BigEndian.PutUint16(segment[14:], 65535)
	return frame
}

// setSource makes the frame come from the i-th address of 172.16.0.0/12.
func setSource(frame []byte, i uint32) {
	ip, segment := frame[ipHeader:transportHeader], frame[transportHeader:]
	binary.BigEndian.PutUint32(ip[12:], 172<<24|16<<16|i)
	clear(ip[10:12])
	binary.BigEndian.PutUint16(ip[10:], ^checksum(0, ip))
	binary.BigEndian.PutUint16(segment, uint16(1024+i%60000))
	if ip[9] != unix.IPPROTO_TCP {
		return
	}
	binary.BigEndian.PutUint32(segment[4:], i)
	clear(segment[16:18])
	pseudo := checksum(uint32(unix.IPPROTO_TCP)+uint32(len(segment)), ip[12:20])
	binary.BigEndian.PutUint16(segment[16:], ^checksum(uint32(pseudo), segment))
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

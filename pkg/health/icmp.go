package health

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// tokenSize is how many random bytes an echo request carries, by which its
// reply is known.
const tokenSize = 16

// icmp sends one echo request (RFC 792, RFC 4443 section 4.1) and waits for
// its reply.
func (p *prober) icmp(ctx context.Context, t Target) outcome {
	conn, err := openEcho(t.Backend.Address, unix.SOCK_RAW)
	if errors.Is(err, os.ErrPermission) {
		// Without CAP_NET_RAW, net.ipv4.ping_group_range may still allow this.
		conn, err = openEcho(t.Backend.Address, unix.SOCK_DGRAM)
	}
	if err != nil {
		return unable(err.Error())
	}
	return conn.exchange(ctx)
}

// echoConn is a socket for echoes with one address.
type echoConn struct {
	fd int
	// file reads and writes the socket, with deadlines, through the runtime's poller.
	file *os.File
	to   netip.Addr
	// raw sockets see all ICMP of the host, with identifiers as sent and, for
	// IPv4, IP headers; the kernel puts its own identifier on the others, and
	// gives them only what is theirs.
	raw bool
}

// openEcho opens a socket of kind SOCK_RAW, which needs CAP_NET_RAW, or
// SOCK_DGRAM, which needs net.ipv4.ping_group_range to include the process.
func openEcho(to netip.Addr, kind int) (*echoConn, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if to.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a socket for ICMP, which needs CAP_NET_RAW: %w", err)
	}
	if err := receiveErrors(fd, to.Is6()); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &echoConn{fd, os.NewFile(uintptr(fd), "icmp"), to, kind == unix.SOCK_RAW}, nil
}

// exchange sends the request, awaits the reply, and closes the socket.
func (c *echoConn) exchange(ctx context.Context) outcome {
	defer c.file.Close()
	defer bound(ctx, c.file)()
	request, id, token, err := c.request()
	if err != nil {
		return unable("echo request: " + err.Error())
	}
	// A connected socket sees only what this address sends, however many
	// others are being probed.
	if err := unix.Connect(c.fd, socketAddress(netip.AddrPortFrom(c.to, 0))); err != nil {
		return unreached(err, "")
	}
	const silence = "no reply to the echo request"
	if _, err := c.file.Write(request); err != nil {
		return unreached(err, silence)
	}
	buffer := make([]byte, 1500)
	for {
		n, err := c.file.Read(buffer)
		if err != nil {
			return unreached(err, silence)
		}
		if c.answers(buffer[:n], id, token) {
			return pass(L4OK, "echo reply")
		}
	}
}

// request makes an echo request with a random identifier and payload.
func (c *echoConn) request() (message []byte, id uint16, token []byte, err error) {
	// Read never fails.
	random := make([]byte, 2+tokenSize)
	rand.Read(random)
	id, token = binary.BigEndian.Uint16(random), random[2:]
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(id), Seq: 1, Data: token}}
	if c.to.Is6() {
		// The kernel fills in the checksum of ICMPv6.
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	message, err = m.Marshal(nil)
	return message, id, token, err
}

// answers reports whether packet, as read from the socket, replies to the request.
func (c *echoConn) answers(packet []byte, id uint16, token []byte) bool {
	protocol, reply := unix.IPPROTO_ICMP, icmp.Type(ipv4.ICMPTypeEchoReply)
	if c.to.Is6() {
		protocol, reply = unix.IPPROTO_ICMPV6, ipv6.ICMPTypeEchoReply
	} else if c.raw {
		const minimum = 20
		if len(packet) < minimum {
			return false
		}
		header := 4 * int(packet[0]&0xf)
		if header < minimum || header > len(packet) || netip.AddrFrom4([4]byte(packet[12:16])) != c.to {
			return false
		}
		packet = packet[header:]
	}
	m, err := icmp.ParseMessage(protocol, packet)
	if err != nil || m.Type != reply {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return ok && (!c.raw || echo.ID == int(id)) && echo.Seq == 1 && bytes.Equal(echo.Data, token)
}

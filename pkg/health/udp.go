package health

import (
	"context"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDatagram is the longest payload of a UDP datagram.
const maxDatagram = 1<<16 - 1

// udp sends one datagram with the check's payload and waits for an answer: any
// one, or one that contains the check's body.
//
// A check with neither payload nor body sends an empty datagram and asks for
// nothing: no server answers that, so it waits for its whole timeout and fails
// only if the port is refused or the host unreachable. It notices a host that is
// gone only as far as the network says so; give it something to send to be sure.
func (p *prober) udp(ctx context.Context, t Target) outcome {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(t.Endpoint()))
	if err != nil {
		return unreached(err, "")
	}
	defer conn.Close()
	defer bound(ctx, conn)()
	if err := reportErrors(conn, t.Backend.Address.Is6()); err != nil {
		return unable(err.Error())
	}
	if _, err := conn.Write([]byte(t.Check.Send)); err != nil {
		return unreached(err, "the datagram could not be sent in time")
	}
	answer := make([]byte, 1)
	if t.Check.Body != "" {
		answer = make([]byte, maxDatagram)
	}
	n, err := conn.Read(answer)
	asks := t.Check.Send != "" || t.Check.Body != ""
	switch {
	case err == nil && strings.Contains(string(answer[:n]), t.Check.Body):
		return pass(L7OK, "answered")
	case err == nil:
		return fail(L7RSP, fmt.Sprintf("answer does not contain %q", t.Check.Body))
	case !isTimeout(err):
		return unreached(err, "")
	case asks:
		return fail(L7TOUT, "no answer to the datagram")
	}
	return pass(L4OK, "not refused; the check asks for no answer")
}

// reportErrors makes the kernel report every ICMP error, also those that it
// takes for passing ones, such as host unreachable.
func reportErrors(conn *net.UDPConn, v6 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = receiveErrors(int(fd), v6) }); err != nil {
		return err
	}
	return failed
}

func receiveErrors(fd int, v6 bool) error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("ask for ICMP errors: %w", err)
	}
	return nil
}

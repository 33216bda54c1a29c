package health

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func TestTCP(t *testing.T) {
	tcp := model.Check{Type: model.CheckTCP}
	loopbacks(t, func(t *testing.T, addr netip.Addr) {
		to, _ := listen(t, anyPort(addr), func(net.Conn) {})
		wantOutcome(t, probe(t, aim(to, tcp)), L4OK, "connection accepted")
		closed := aim(refused(t, addr), tcp)
		wantOutcome(t, probe(t, closed), L4CON, "connection refused")
	})
	t.Run("timeout", func(t *testing.T) {
		got := timeOut(t, aim(blackhole(t), tcp), L4TOUT)
		wantOutcome(t, got, L4TOUT, "no answer to the connection attempt")
	})
}

// Without a route, every type of check says that the network is unreachable.
func TestUnreachable(t *testing.T) {
	for _, to := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		for kind := model.CheckTCP; kind <= model.CheckICMP; kind++ {
			inNamespace(t, func() {
				got := probe(t, aim(netip.MustParseAddrPort(to), model.Check{Type: kind}))
				wantOutcome(t, got, L4CON, "network is unreachable")
			})
		}
	}
}

// A probe that this host cannot make says nothing of the backend.
func TestOwnFailures(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.EADDRNOTAVAIL, syscall.EPERM} {
		wantOutcome(t, unreached(os.NewSyscallError("socket", errno), ""), SOCKERR, errno.Error())
	}
	for _, errno := range []syscall.Errno{syscall.EHOSTUNREACH, syscall.EACCES} {
		wantOutcome(t, unreached(os.NewSyscallError("connect", errno), ""), L4CON, errno.Error())
	}
	unknown := aim(netip.MustParseAddrPort("127.0.0.1:1"), model.Check{Type: 99, Name: "x"})
	wantOutcome(t, probe(t, unknown), SOCKERR, "there is no probe of type check(99)")
}

func TestTCPLeavesNoTimeWait(t *testing.T) {
	to, _ := listen(t, anyPort(netip.MustParseAddr("127.0.0.1")), func(c net.Conn) { c.Read(make([]byte, 1)) })
	for range 10 {
		wantOutcome(t, probe(t, aim(to, model.Check{Type: model.CheckTCP})), L4OK, "connection accepted")
	}
	if n := timeWaits(t, to.Port()); n != 0 {
		t.Errorf("%d connections are in TIME_WAIT after probes, want 0", n)
	}
	// The control: a connection that is closed in the ordinary way does.
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	eventually(t, "an ordinary connection is in TIME_WAIT", func() bool { return timeWaits(t, to.Port()) == 1 })
}

// timeWaits counts connections to an IPv4 port that are in TIME_WAIT.
func timeWaits(t *testing.T, port uint16) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) > 3 && bytes.HasSuffix(fields[2], fmt.Appendf(nil, ":%04X", port)) && string(fields[3]) == "06" {
			n++
		}
	}
	return n
}

// answerUDP is a server that answers each datagram with what answer makes of
// it, or not at all where that is nil.
func answerUDP(t *testing.T, addr netip.Addr, answer func([]byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(anyPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-ended })
	go func() {
		defer close(ended)
		for buffer := make([]byte, maxDatagram); ; {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			if reply := answer(buffer[:n]); reply != nil {
				conn.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestUDP(t *testing.T) {
	loopbacks(t, func(t *testing.T, addr netip.Addr) {
		echo := answerUDP(t, addr, func(b []byte) []byte { return append([]byte{}, b...) })
		mute := answerUDP(t, addr, func([]byte) []byte { return nil })
		closed := aim(refused(t, addr), model.Check{}).Endpoint()
		for _, tt := range []struct {
			name           string
			to             netip.AddrPort
			send, body     string
			result, detail string
		}{
			{"any answer", echo, "ping", "", L7OK, "answered"},
			{"right answer", echo, "ping pong", "pong", L7OK, "answered"},
			{"wrong answer", echo, "ping", "pong", L7RSP, `answer does not contain "pong"`},
			{"empty datagram answered", echo, "", "", L7OK, "answered"},
			{"silence", mute, "ping", "", L7TOUT, "no answer to the datagram"},
			{"silence where a body is expected", mute, "", "pong", L7TOUT, "no answer to the datagram"},
			{"silence allowed", mute, "", "", L4OK, "not refused; the check asks for no answer"},
			{"refused", closed, "ping", "", L4CON, "connection refused"},
			{"refused where silence is allowed", closed, "", "", L4CON, "connection refused"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				target := aim(tt.to, model.Check{Type: model.CheckUDP, Send: tt.send, Body: tt.body})
				got := outcome{}
				if tt.to == mute {
					got = timeOut(t, target, tt.result)
				} else {
					got = probe(t, target)
				}
				wantOutcome(t, got, tt.result, tt.detail)
			})
		}
	})
}

func TestICMP(t *testing.T) {
	loopbacks(t, func(t *testing.T, addr netip.Addr) {
		target := aim(anyPort(addr), model.Check{Type: model.CheckICMP})
		wantOutcome(t, probe(t, target), L4OK, "echo reply")
		ignore := "/proc/sys/net/ipv4/icmp_echo_ignore_all"
		if addr.Is6() {
			ignore = "/proc/sys/net/ipv6/icmp/echo_ignore_all"
		}
		inNamespace(t, func() {
			wantOutcome(t, probe(t, target), L4OK, "echo reply")
			write(t, ignore, "1")
			got := timeOut(t, target, L4TOUT)
			wantOutcome(t, got, L4TOUT, "no reply to the echo request")
		})
		t.Run("unprivileged", func(t *testing.T) {
			inNamespace(t, func() {
				if _, err := openEcho(addr, unix.SOCK_DGRAM); err == nil {
					t.Error("an ICMP socket can be had without being allowed")
				}
				write(t, "/proc/sys/net/ipv4/ping_group_range", "0 0")
				conn, err := openEcho(addr, unix.SOCK_DGRAM)
				if err != nil {
					t.Error(err)
					return
				}
				wantOutcome(t, conn.exchange(within(t, patience)), L4OK, "echo reply")
			})
		})
	})
}

// Only the reply to the very request counts, whatever else arrives.
func TestICMPMatches(t *testing.T) {
	to := netip.MustParseAddr("192.0.2.1")
	conn := &echoConn{to: to, raw: true}
	_, id, token, err := conn.request()
	if err != nil {
		t.Fatal(err)
	}
	header := make([]byte, 20)
	header[0] = 0x45
	packet := func(from string, kind icmp.Type, id uint16, seq int, data []byte) []byte {
		m, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: int(id), Seq: seq, Data: data}}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		source := netip.MustParseAddr(from).As4()
		copy(header[12:], source[:])
		return append(bytes.Clone(header), m...)
	}
	reply := ipv4.ICMPTypeEchoReply
	good := packet("192.0.2.1", reply, id, 1, token)
	if !conn.answers(good, id, token) {
		t.Fatal("the reply is not taken for one")
	}
	for name, p := range map[string][]byte{
		"request":    packet("192.0.2.1", ipv4.ICMPTypeEcho, id, 1, token),
		"source":     packet("192.0.2.2", reply, id, 1, token),
		"identifier": packet("192.0.2.1", reply, id+1, 1, token),
		"sequence":   packet("192.0.2.1", reply, id, 2, token),
		"payload":    packet("192.0.2.1", reply, id, 1, bytes.Repeat([]byte{1}, tokenSize)),
		"no payload": packet("192.0.2.1", reply, id, 1, nil),
		"truncated":  good[:22],
		"headless":   good[:19],
		"bad header": append([]byte{0x4f}, good[1:]...),
	} {
		if conn.answers(p, id, token) {
			t.Errorf("%s: a packet that is no reply is taken for one", name)
		}
	}
}

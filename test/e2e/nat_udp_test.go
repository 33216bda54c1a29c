package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestNATDNS asks name servers that know nothing of a VIP, over UDP and TCP.
func TestNATDNS(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{}, setup{}, func(r *rig, ways []way) {
		r.nameServers()
		r.addPortPools("dns", 53)
		for _, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				at := netip.AddrPortFrom(w.vip, 53).String()
				on.cli("vip", "add", w.name+"-tcp", at, "--mode", w.mode, "--pool", "dns"+w.pool)
				on.cli("vip", "add", w.name+"-udp", at, "--protocol", "udp", "--mode", w.mode, "--pool", "dns"+w.pool)
				on.dns(w.vip, w.name)
			})
		}
		r.dropsNothing()
	})
}

// TestNATDatagrams asks over UDP, with questions and answers in one packet and in
// fragments, and where nobody listens.
func TestNATDatagrams(t *testing.T) {
	t.Parallel()
	// All links are alike: IPv6 loses fragments that are too large for one.
	eachNAT(t, lab.Options{Interfaces: 2, MTU: 1500}, setup{}, func(r *rig, ways []way) {
		r.echoUDP(servicePort)
		r.addPortPools("echo", servicePort)
		r.addPortPools("closed", servicePort+1)
		for _, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				on.cli("vip", "add", w.name, netip.AddrPortFrom(w.vip, echoPort).String(), "--protocol", "udp", "--mode", w.mode, "--pool", "echo"+w.pool)
				served := map[string]int{}
				for i := range 40 {
					conn := on.dialEcho(w.vip, source(w.vip, 1+i))
					name := on.askUDP(conn, "who")
					served[name]++
					for range 3 {
						if again := on.askUDP(conn, "who"); again != name {
							t.Errorf("%s answers, and then %s", name, again)
						}
					}
					// Between families, fragments have no translation.
					if i < 5 && w.outer == 0 {
						if again := on.askUDP(conn, string(question())); again != name {
							t.Errorf("%s answers in fragments, %s does not", again, name)
						}
					}
				}
				if len(served) != len(on.Backends) {
					t.Errorf("answers come from %v", served)
				}
				on.cli("vip", "set", w.name, "--pool", "closed"+w.pool)
				conn := on.dialEcho(w.vip, source(w.vip, 99))
				_, err := conn.Write([]byte("who"))
				on.must(err)
				if _, err := on.answer(conn, patience); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("nobody listens: %v", err)
				}
			})
		}
	})
}

// echoUDP answers datagrams to a port of every backend with its name, a space and what
// they say, until the test ends.
func (r *rig) echoUDP(port uint16) {
	r.t.Helper()
	for _, b := range r.Backends {
		for _, address := range []netip.Addr{b.V4, b.V6} {
			socket, err := b.ListenUDP(netip.AddrPortFrom(address, port))
			r.must(err)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				buffer := make([]byte, 1<<16)
				for {
					n, from, err := socket.ReadFromUDPAddrPort(buffer)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if err != nil {
						continue // an ICMP error that a former answer met
					}
					// One that is lost is missed by who asked.
					socket.WriteToUDPAddrPort(append([]byte(b.Name+" "), buffer[:n]...), from)
				}
			}()
			r.t.Cleanup(func() {
				socket.Close()
				<-ended
			})
		}
	}
}

// askUDP asks, and returns who answers.
func (r *rig) askUDP(conn net.Conn, question string) string {
	r.t.Helper()
	_, err := conn.Write([]byte(question))
	r.must(err)
	r.must(conn.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	r.must(err)
	name, rest, _ := strings.Cut(string(buffer[:n]), " ")
	if rest != question {
		r.t.Fatalf("%d bytes were asked, %d are answered", len(question), len(rest))
	}
	return name
}

// TestNATTraceroute traces the way to VIPs: the routers before, the balancer, and the
// backend, which both answer from the VIP's address. Pings end at the balancer.
func TestNATTraceroute(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Transit: 1500}, setup{}, func(r *rig, ways []way) {
		r.addNATPools()
		r.addNATVIPs(ways)
		r.addPortPools("closed", servicePort)
		for _, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				on.cli("vip", "add", w.name+"-udp", netip.AddrPortFrom(w.vip, echoPort).String(), "--protocol", "udp", "--mode", w.mode, "--pool", "closed"+w.pool)
				before := []string{"192.0.2.1", "10.0.2.1"}
				if w.vip.Is6() {
					before = []string{"2001:db8:1::1", "2001:db8:4::1"}
				}
				vip := w.vip.String()
				through := append(before, vip, vip)
				on.trace(w.vip, through, "<syn,ack", "-T", "-p", "80", "-O", "info")
				on.trace(w.vip, through, "", "-U", "-p", fmt.Sprint(echoPort))
				on.trace(w.vip, append(before, vip), "", "-I")
				if _, err := on.Client.Run("ping", "-n", "-q", "-c", "1", "-W", "5", vip); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestNATHairpin has every backend be a client of the VIPs that it serves itself.
func TestNATHairpin(t *testing.T) {
	t.Parallel()
	for interfaces := 1; interfaces <= 2; interfaces++ {
		t.Run(fmt.Sprintf("%d-interfaces", interfaces), func(t *testing.T) {
			t.Parallel()
			r := startWith(t, lab.Options{Interfaces: interfaces, Return: lab.ReturnSNAT}, setup{ports: []uint16{natPort}, more: natConfig("")})
			ways := natWays("fullnat")
			r.addNATPools()
			r.addNATVIPs(ways)
			for _, b := range r.Backends {
				for _, w := range ways {
					via := r.Balancer.V4
					if w.vip.Is6() {
						via = r.Balancer.V6
					}
					_, err := b.Run("ip", "route", "replace", w.vip.String(), "via", via.String())
					r.must(err)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					answers := b.Fetch(ctx, url(w.vip, "/"), 60, 4)
					if answers.Failed() > 0 || len(answers.Bodies) != len(r.Backends) {
						t.Errorf("%s asks %s: answers come from %v; failed: %v", b.Name, w.name, answers.Bodies, answers.Failures)
					}
					// What is large comes in pieces, from whoever it is.
					if size, err := b.Run("curl", "-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{size_download}", url(w.vip, "/big")); err != nil || size != fmt.Sprint(bigBytes) {
						t.Errorf("%s asks %s: %s bytes of %d: %v", b.Name, w.name, size, bigBytes, err)
					}
				}
			}
			r.dropsNothing()
		})
	}
}

// TestNATGateway looks at what passes a gateway besides answers of VIPs, and takes
// away what the gateway needs.
func TestNATGateway(t *testing.T) {
	t.Parallel()
	for interfaces := 1; interfaces <= 2; interfaces++ {
		t.Run(fmt.Sprintf("%d-interfaces", interfaces), func(t *testing.T) {
			t.Parallel()
			const other = 8081 // no VIP's
			r := startWith(t, lab.Options{Interfaces: interfaces, Backends: 2, Return: lab.ReturnGateway}, setup{ports: []uint16{natPort, other}})
			ways := natWays("nat")
			r.addNATPools()
			r.addNATVIPs(ways)
			for _, w := range ways {
				client, of := r.Client.V4, v4
				if w.vip.Is6() {
					client, of = r.Client.V6, v6
				}
				b := r.Backends[0]
				// Directly, to what is not balanced.
				at := fmt.Sprintf("http://%s/client", netip.AddrPortFrom(of(b), other))
				if out, err := r.Client.Run("curl", "-sS", "--max-time", "10", at); err != nil || out != client.String()+"\n" {
					t.Errorf("%s says %q: %v", at, out, err)
				}
				// Pings, and connections that a backend begins.
				for _, ping := range []struct {
					from *lab.Host
					to   netip.Addr
				}{{b, client}, {r.Client, of(b)}} {
					if _, err := ping.from.Run("ping", "-n", "-q", "-c", "1", "-W", "5", ping.to.String()); err != nil {
						t.Error(err)
					}
				}
				r.callsOut(b, of(b), client)
				r.fetch(w.vip, 50)
			}
			r.dropsNothing()

			// The control: without forwarding there is no way back.
			for i, w := range ways {
				setting := []string{"net/ipv4/ip_forward=", "net/ipv6/conf/all/forwarding="}[i]
				r.must(r.Balancer.Sysctl(setting + "0"))
				if err := r.connect(w.vip, 500*time.Millisecond); err == nil {
					t.Errorf("%s: connected through a gateway that does not forward", w.name)
				}
				r.must(r.Balancer.Sysctl(setting + "1"))
				r.wait("there is a way back again", func() error { return r.connect(w.vip, time.Second) })
			}
		})
	}
}

// callsOut connects from a backend to the client, which sees the backend's address.
func (r *rig) callsOut(b *lab.Host, from, to netip.Addr) {
	r.t.Helper()
	var listener net.Listener
	r.must(r.Client.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(to, 0).String())
		return err
	}))
	defer listener.Close()
	r.must(listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
	conn, err := b.Dial(r.t.Context(), "tcp", listener.Addr().String(), netip.Addr{})
	r.must(err)
	defer conn.Close()
	accepted, err := listener.Accept()
	r.must(err)
	defer accepted.Close()
	if got := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != from {
		r.t.Errorf("%s calls as %s", b.Name, got)
	}
	_, err = io.WriteString(conn, "hello")
	r.must(err)
	r.must(accepted.SetReadDeadline(time.Now().Add(patience)))
	heard := make([]byte, 5)
	if _, err := io.ReadFull(accepted, heard); err != nil || string(heard) != "hello" {
		r.t.Errorf("%s is heard to say %q: %v", b.Name, heard, err)
	}
}

// TestNATRefusals: what a mode cannot do is refused, and changes nothing.
func TestNATRefusals(t *testing.T) {
	t.Parallel()
	snat4, snat6 := lab.SNAT()
	r := startWith(t, lab.Options{Backends: 1, Return: lab.ReturnGateway}, setup{
		ports: []uint16{natPort}, more: fmt.Sprintf("nat:\n  source_ipv4: %s\n", snat4),
	})
	r.addNATPools()
	one := netip.AddrPortFrom(r.Backends[0].V4, natPort).String()
	same := natWays("nat")[:1]
	r.addNATVIPs(same)
	vip := endpoint(same[0].vip)
	before := r.status()
	for _, row := range []refusal{
		{"a second VIP of a backend's port", exitInvalid, command("vip add other 198.51.100.9:80 --mode nat --pool v4"),
			[]string{`VIP "other": mode nat cannot tell`, one, vip, "fullnat"}},
		{"a second endpoint of a backend's port", exitInvalid, command("vip set nat-v4 --add-endpoint 198.51.100.9:443"), []string{`VIP "nat-v4": mode nat cannot tell`, one}},
		{"ports that become one", exitInvalid, command("vip set nat-v4 " + vip + "-90"), []string{`VIP "nat-v4": mode nat cannot tell which port`, one}},
		{"a port that another keeps", exitInvalid, command("vip add other 198.51.100.9:8080 --mode nat --backend " + r.Backends[0].V4.String()),
			[]string{`VIP "other": mode nat cannot tell`, one}},
		{"nat between families", exitInvalid, command("vip add other [2001:db8:100::9]:80 --mode nat --pool v4"), []string{`VIP "other": mode nat cannot translate between IPv4 and IPv6`}},
		{"nat between families, a backend", exitInvalid, command("backend add v4 " + r.Backends[0].V6.String()), []string{"cannot translate between IPv4 and IPv6"}},
		{"fullnat without tracking", exitInvalid, command("vip add other 198.51.100.9:80 --mode fullnat --tracking flux --pool v4"), []string{`VIP "other", tracking`, "use always"}},
		{"fullnat of a VIP that tracks less", exitInvalid, command("vip set nat-v4 --mode fullnat"), []string{`VIP "nat-v4", tracking`, "use always"}},
		{"fullnat of early fragments", exitInvalid, command("vip add other 198.51.100.9:80 --mode fullnat --fragments hash --pool v4"), []string{`VIP "other", fragments`}},
		{"DSR to another port", exitInvalid, command("vip set nat-v4 --mode dsr-l2"), []string{"cannot translate port 80 to port 8080"}},
		{"a SNAT address as a backend", exitInvalid, command("backend add v4 " + netip.AddrPortFrom(snat4.Addr().Next(), natPort).String()), []string{snat4.Addr().Next().String(), "nat.source_ipv4"}},
		{"a SNAT address as a VIP", exitInvalid, command("vip add other " + endpoint(snat4.Addr()) + " --mode fullnat --pool v4"), []string{`VIP "other"`, "nat.source_ipv4"}},
	} {
		said := r.refused(row.code, row.args...)
		for _, want := range row.want {
			if !strings.Contains(said, want) {
				t.Errorf("%s: %q does not say %q", row.name, said, want)
			}
		}
		if after := r.status(); after.Revision != before.Revision || desired(after) != desired(before) {
			t.Errorf("%s: revision %d became %d:\n%s", row.name, before.Revision, after.Revision, desired(after))
		}
		r.fetch(same[0].vip, 10)
	}
	// No refusal: without an address of their family, backends wait for one.
	r.cli("vip", "add", "waits", endpoint(natWays("fullnat")[1].vip), "--mode", "fullnat", "--pool", "v6")
	if said := r.cli("pool", "show", "v6"); !strings.Contains(said, "nat.source_ipv6") {
		t.Errorf("backends that fullnat has no address for:\n%s", said)
	}
	r.stopDaemon()
	r.more += fmt.Sprintf("  source_ipv6: %q\n", snat6)
	r.startDaemon()
	r.fetch(natWays("fullnat")[1].vip, 20)
	r.fetch(same[0].vip, 20)
}

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// natPort is where web servers listen that have no VIP's port.
	natPort = 8080
	// servicePort is where a backend has what a test makes for it.
	servicePort = 9000
)

// natWays are those of a mode that translates: fullnat does so between families too.
// The ways between families add a few bytes, or save them.
func natWays(mode string) []way {
	same4, same6 := lab.VIP(6)
	from4, from6 := lab.VIP(7)
	ways := []way{
		{mode + "-v4", mode, same4, "v4", 0},
		{mode + "-v6", mode, same6, "v6", 0},
	}
	if mode == "fullnat" {
		ways = append(ways, way{"fullnat-6to4", mode, from6, "v4", -20}, way{"fullnat-4to6", mode, from4, "v6", 20})
	}
	return ways
}

// eachNAT runs a test in both modes that translate, each in a lab as the mode needs it:
// under nat the balancer is the backends' gateway, under fullnat they know no way to
// clients. All backends are ordinary servers.
func eachNAT(t *testing.T, o lab.Options, s setup, test func(r *rig, ways []way)) {
	t.Helper()
	for mode, returns := range map[string]lab.Return{"nat": lab.ReturnGateway, "fullnat": lab.ReturnSNAT} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			o, s := o, s
			o.Return = returns
			if s.ports == nil {
				s.ports = []uint16{natPort}
			}
			if s.more == "" {
				s.more = natConfig("")
			}
			test(startWith(t, o, s), natWays(mode))
		})
	}
}

// natConfig is the configuration of all SNAT addresses with these ports; empty means
// those that are usual.
func natConfig(ports string) string {
	snat4, snat6 := lab.SNAT()
	config := fmt.Sprintf("nat:\n  source_ipv4: %s\n  source_ipv6: %q\n", snat4, snat6)
	if ports != "" {
		config += fmt.Sprintf("  ports: %s\n", ports)
	}
	return config
}

// oneSource is the configuration of one SNAT address of each family.
func oneSource(ports string) string {
	snat4, snat6 := lab.SNAT()
	return fmt.Sprintf("nat:\n  source_ipv4: %s\n  source_ipv6: %q\n  ports: %s\n", snat4.Addr(), snat6.Addr(), ports)
}

// snatOf is what backends in a pool see of clients under fullnat.
func snatOf(pool string) netip.Prefix {
	snat4, snat6 := lab.SNAT()
	if pool == "v4" {
		return snat4
	}
	return snat6
}

// addNATPools adds the pools "v4" and "v6" of all web servers, on their own port.
func (r *rig) addNATPools() {
	r.t.Helper()
	r.addPortPools("", natPort)
	for _, name := range []string{"v4", "v6"} {
		r.cli("check", "add", name, "http", "--path", "/healthz",
			"--interval", checkInterval.String(), "--timeout", checkTimeout.String(), "--rise", "2", "--fall", "10")
		r.waitUp(name, r.Backends...)
	}
}

// addPortPools adds two pools of all backends with a port, whose names end in "v4" and
// "v6". They have no checks.
func (r *rig) addPortPools(prefix string, port uint16) {
	r.t.Helper()
	for name, address := range map[string]func(*lab.Host) netip.Addr{"v4": v4, "v6": v6} {
		add := []string{"pool", "add", prefix + name}
		for _, b := range r.Backends {
			add = append(add, netip.AddrPortFrom(address(b), port).String())
		}
		r.cli(add...)
	}
}

// addNATVIPs adds a VIP for each way, on port 80.
func (r *rig) addNATVIPs(ways []way) {
	r.t.Helper()
	for _, w := range ways {
		r.addVIP(w.name, w.vip, w.mode, w.pool)
	}
}

// accept serves TCP connections to a port of every backend until the test ends.
func (r *rig) accept(port uint16, handle func(b *lab.Host, conn *net.TCPConn)) {
	r.t.Helper()
	var running sync.WaitGroup
	r.t.Cleanup(running.Wait)
	for _, b := range r.Backends {
		var listener net.Listener
		r.must(b.Do(func() (err error) {
			listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
			return err
		}))
		running.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				running.Go(func() {
					defer conn.Close()
					if conn.SetDeadline(time.Now().Add(2*patience)) != nil { // an end that is lost ends no test
						return
					}
					handle(b, conn.(*net.TCPConn))
				})
			}
		})
		r.t.Cleanup(func() { listener.Close() })
	}
}

// dialTCP connects from the client, with an address of its range.
func (r *rig) dialTCP(to netip.AddrPort, i int) *net.TCPConn {
	r.t.Helper()
	conn, err := r.Client.Dial(r.t.Context(), "tcp", to.String(), source(to.Addr(), i))
	r.must(err)
	r.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// randomBig makes /upload/random of every web server the same random bytes, and
// returns their digest.
func (r *rig) randomBig(size int) string {
	r.t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	for _, b := range r.Backends {
		r.must(os.WriteFile(b.Uploaded("random"), data, 0o644))
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// digest is that of all that can be read, which ends well.
func digest(from io.Reader) (string, error) {
	hash := sha256.New()
	_, err := io.Copy(hash, from)
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

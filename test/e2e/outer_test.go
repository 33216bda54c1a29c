package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// outerHeader is a packet from the balancer to a backend, as tcpdump prints it.
type outerHeader struct {
	source netip.Addr
	port   string // of GUE, else empty
	sum    string
}

// TestOuterHeaders looks at what backends get on the wire: outer sources all over a
// prefix, a source port for each flow of GUE, and its checksum.
func TestOuterHeaders(t *testing.T) {
	t.Parallel()
	all := ways()[2:]
	prefixes := map[string]netip.Prefix{"v4": netip.MustParsePrefix("10.0.9.0/24"), "v6": netip.MustParsePrefix("2001:db8:9::/112")}
	const port = "6082"
	r := startWith(t, lab.Options{Backends: 1}, setup{
		vips:   vipsOf(all),
		more:   fmt.Sprintf("encapsulation:\n  source_ipv4: %s\n  source_ipv6: %q\n  gue_port: %s\n  gue_checksum: true\n", prefixes["v4"], prefixes["v6"], port),
		helper: []string{"--balancer", prefixes["v4"].String(), "--balancer", prefixes["v6"].String(), "--gue-port", port},
	})
	r.addPools()
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			on.addVIP(w.name, w.vip, w.mode, w.pool)
			seen := on.capture(w, port, 3*100, func() { on.fetch(w.vip, 100) })
			sources, ports := map[netip.Addr]bool{}, map[string]bool{}
			for _, outer := range seen {
				sources[outer.source] = true
				ports[outer.port] = true
				if !prefixes[w.pool].Contains(outer.source) {
					t.Errorf("the outer source %s is not of %s", outer.source, prefixes[w.pool])
				}
				if w.mode == "dsr-gue" && outer.sum != "udp sum ok" {
					t.Errorf("the outer checksum: %q", outer.sum)
				}
			}
			t.Logf("%d packets from %d sources and %d ports", len(seen), len(sources), len(ports))
			// A hundred flows collide in some of 256 addresses.
			if len(sources) < 50 {
				t.Errorf("a hundred flows have %d outer sources", len(sources))
			}
			if w.mode == "dsr-gue" && len(ports) < 50 {
				t.Errorf("a hundred flows have %d outer ports", len(ports))
			}
			// All packets of one flow look the same from outside.
			seen = on.capture(w, port, 5, func() {
				conn := on.keep(w.vip, 1)
				for range 4 {
					if on.broken(conn) > 0 {
						t.Error("a connection is broken")
					}
				}
			})
			for _, outer := range seen {
				if outer.source != seen[0].source || outer.port != seen[0].port {
					t.Errorf("one flow has the outer headers %+v and %+v", seen[0], outer)
				}
			}
		})
	}

	// The control: by default there is one source, and no checksum.
	r.stopDaemon()
	r.more = "encapsulation:\n  gue_port: " + port + "\n"
	r.startDaemon()
	for _, w := range all {
		sources := map[netip.Addr]bool{}
		for _, outer := range r.capture(w, port, 3*20, func() { r.fetch(w.vip, 20) }) {
			sources[outer.source] = true
			// Of IPv6, tcpdump does not know that tunnels may do without (RFC 6935).
			if w.mode == "dsr-gue" && outer.sum != "no cksum" && !strings.HasPrefix(outer.sum, "bad udp cksum 0x0000 ") {
				t.Errorf("%s: without gue_checksum, the outer checksum: %q", w.name, outer.sum)
			}
		}
		if len(sources) != 1 || !sources[r.Balancer.V4] && !sources[r.Balancer.V6] {
			t.Errorf("%s: without a prefix, the outer sources are %v", w.name, sources)
		}
	}
}

// capture returns the outer headers of what goes to the first backend while f runs.
// Those are no fewer than atLeast.
func (r *rig) capture(w way, port string, atLeast int, f func()) []outerHeader {
	r.t.Helper()
	b := r.Backends[0]
	filter := map[string]string{"dsr-ipip": "ip proto 4 or ip6 proto 41", "dsr-gue": "udp dst port " + port}[w.mode]
	// The backend's own program takes outer headers off before a capture there sees them.
	p, err := r.Switch.Capture(r.t.Context(), b.Name, filter)
	r.must(err)
	f()
	var seen []outerHeader
	r.wait("the capture has the packets", func() error {
		log, err := os.ReadFile(p.LogPath)
		r.must(err)
		if seen = outerHeaders(string(log), w.mode == "dsr-gue"); len(seen) < atLeast {
			return fmt.Errorf("it has %d of at least %d", len(seen), atLeast)
		}
		return nil
	})
	r.must(p.Stop())
	return seen
}

// outerHeaders reads what tcpdump prints of packets to a backend:
//
//	10.0.9.4 > 10.0.0.11: IP (tos 0x0, ...
//	2001:db8:9::4.58061 > 2001:db8:2::11.6080: [udp sum ok] UDP, length 84
func outerHeaders(log string, gue bool) []outerHeader {
	var seen []outerHeader
	shape := regexp.MustCompile(`(\S+) > (?:10\.0\.0\.11|2001:db8:2::11)(?:\.\d+: \[([^\]]*)\] UDP|: IP)`)
	for _, found := range shape.FindAllStringSubmatch(log, -1) {
		outer := outerHeader{sum: found[2]}
		source := found[1]
		if dot := strings.LastIndexByte(source, '.'); gue {
			source, outer.port = source[:dot], source[dot+1:]
		}
		outer.source, _ = netip.ParseAddr(source) // an invalid one is in no prefix
		seen = append(seen, outer)
	}
	return seen
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// crowd is how many connections there are at once, of one SNAT address.
	crowd50k = 50_000
	// fewPorts are as few as there may be, and in no word of 64 ports alone.
	fewPorts      = "20000-20063"
	fewPortsCount = 64
)

// TestNATCrowd holds 50,000 connections from one address of the balancer, to VIPs of
// both families, which begin on two CPUs at once. Each hears what it said and nothing else.
func TestNATCrowd(t *testing.T) {
	const cpus, parts = 2, 5
	r := startWith(t, lab.Options{Backends: parts, Queues: cpus, Return: lab.ReturnSNAT},
		setup{ports: []uint16{natPort}, more: oneSource("1024-65535")})
	r.addPortPools("crowd", servicePort)
	vip4, vip6 := lab.VIP(1)
	r.addVIP("crowd4", vip4, "fullnat", "crowdv4")
	r.addVIP("crowd6", vip6, "fullnat", "crowdv4")
	for _, b := range r.Backends {
		if said := r.hears(r.act(b, "serve", fmt.Sprint(servicePort))); said != "serving\n" {
			t.Fatalf("a server on %s says %s", b.Name, said)
		}
	}
	var holders []*actor
	for i := range parts {
		vip := []netip.Addr{vip4, vip6}[i%2]
		holders = append(holders, r.act(r.Client, "hold", endpoint(vip), fmt.Sprint(i*crowd50k/parts), fmt.Sprint(crowd50k/parts)))
	}
	r.tell(holders, "open")
	r.tell(holders, "talk")
	if n := r.connections("crowd4") + r.connections("crowd6"); n != crowd50k {
		t.Errorf("the VIPs had %d connections, want %d", n, crowd50k)
	}
	r.dropsNothing()
	share := r.packetsByCPU()
	t.Logf("packets by CPU: %v", share)
	busy := 0
	for _, packets := range share {
		if packets > crowd50k/10 {
			busy++
		}
	}
	if busy < cpus {
		t.Errorf("%d CPUs had packets, want %d", busy, cpus)
	}
}

// packetsByCPU are all packets that the program has counted.
func (r *rig) packetsByCPU() []uint64 {
	r.t.Helper()
	pins, err := filepath.Glob(filepath.Join(r.BPFFS(), r.Balancer.Name, "v*", "*", "reasons"))
	r.must(err)
	if len(pins) != 1 {
		r.t.Fatalf("pins of the reasons: %v", pins)
	}
	reasons, err := ebpf.LoadPinnedMap(pins[0], &ebpf.LoadPinOptions{ReadOnly: true})
	r.must(err)
	defer reasons.Close()
	cpus := make([]uint64, ebpf.MustPossibleCPU())
	for key := range reasons.MaxEntries() {
		var each []uint64
		r.must(reasons.Lookup(key, &each))
		for cpu, packets := range each {
			cpus[cpu] += packets
		}
	}
	return cpus
}

// TestNATPortsExhausted uses all ports that there are. What is more is dropped and
// counted, breaks nothing that is there, and goes when connections have ended.
func TestNATPortsExhausted(t *testing.T) {
	t.Parallel()
	r := startWith(t, lab.Options{Backends: 1, Return: lab.ReturnSNAT}, setup{ports: []uint16{natPort}, more: oneSource(fewPorts)})
	r.addNATPools()
	ways := natWays("fullnat")
	r.addNATVIPs(ways)
	for _, test := range []struct {
		name   string
		vips   []netip.Addr // that share an address, and so its ports
		resets bool         // how connections end
	}{
		{"v4", []netip.Addr{ways[0].vip, ways[2].vip}, true},
		{"v6", []netip.Addr{ways[1].vip, ways[3].vip}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			on := r.within(t)
			all := append(on.keep(test.vips[0], fewPortsCount/2), on.keep(test.vips[1], fewPortsCount/2)...)
			for _, vip := range test.vips {
				before := on.status().Reasons["drop_no_nat_port"]
				err := on.connect(vip, 500*time.Millisecond)
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("one more than there are ports: %v, want no answer", err)
				}
				if now := on.status().Reasons["drop_no_nat_port"]; now == before {
					t.Error("drop_no_nat_port did not count it")
				}
			}
			if n := on.broken(all); n > 0 {
				t.Errorf("%d of %d connections are broken", n, len(all))
			}
			for _, k := range all[:fewPortsCount/2] {
				if test.resets {
					on.must(k.Conn.(*net.TCPConn).SetLinger(0))
				}
				on.must(k.Close())
			}
			all = append(all[fewPortsCount/2:], on.fill(test.vips[1], fewPortsCount/4)...)
			if n := on.broken(all); n > 0 {
				t.Errorf("%d of %d connections are broken", n, len(all))
			}
		})
	}
}

// fill opens connections until there are so many more, however long each takes.
func (r *rig) fill(vip netip.Addr, n int) []*kept {
	r.t.Helper()
	var all []*kept
	for len(all) < n {
		r.wait(fmt.Sprintf("connection %d of %d is there", len(all), n), func() error {
			ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
			defer cancel()
			conn, err := r.Client.Dial(ctx, "tcp", endpoint(vip), netip.Addr{})
			if err == nil {
				all = append(all, r.kept(conn))
			}
			return err
		})
	}
	return all
}

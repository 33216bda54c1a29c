package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// narrow is the MTU of the link in the middle, in bytes.
	narrow = 1400
	// largeBytes is the size of what is uploaded and downloaded.
	largeBytes = 24 << 20
	// stalled is curl's exit status when its time is over.
	stalled = 28
)

// TestPathMTUToBackends uploads through a link between balancer and backends that is
// narrower than the client's: the balancer tells how large packets may be, and the
// client makes them so.
func TestPathMTUToBackends(t *testing.T) {
	t.Parallel()
	all := append(ways(), crossed()...)
	r := startWith(t, lab.Options{Interfaces: 2}, setup{vips: vipsOf(all)})
	_, err := r.Balancer.Run("ip", "link", "set", "dev", "eth1", "mtu", fmt.Sprint(narrow))
	r.must(err)
	_, err = r.Switch.Run("ip", "link", "set", "dev", r.Balancer.Name, "mtu", fmt.Sprint(narrow))
	r.must(err)
	r.addPools()
	data := randomFile(t, largeBytes)
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			on.addVIP(w.name, w.vip, w.mode, w.pool)
			on.upload(w.vip, data, w.name)
			if got := on.learnt(on.Client, w.vip, netip.Addr{}); got != narrow-w.outer {
				t.Errorf("the client learnt an MTU of %d, want %d", got, narrow-w.outer)
			}
		})
	}
	reasons := r.status().Reasons
	if reasons["tx_too_big"] < uint64(len(all)) || reasons["drop_too_big"] > 0 {
		t.Errorf("%d packets were too big and answered, %d not", reasons["tx_too_big"], reasons["drop_too_big"])
	}
	t.Logf("%d packets were too big, for %d uploads", reasons["tx_too_big"], len(all))

	// Routes get narrower while the daemon runs.
	w := all[2]
	_, err = r.Balancer.Run("ip", "route", "change", "10.0.0.0/24", "dev", "eth1", "src", r.Balancer.V4.String(), "mtu", "1300")
	r.must(err)
	small := randomFile(t, 1<<18)
	r.wait("the client learns of the route's MTU", func() error {
		r.upload(w.vip, small, "narrower")
		if got := r.learnt(r.Client, w.vip, netip.Addr{}); got != 1300-w.outer {
			return fmt.Errorf("the MTU is %d", got)
		}
		return nil
	})
}

// TestPathMTUUntold is the control of the former: when the balancer tells nobody,
// nobody knows, and uploads get stuck.
func TestPathMTUUntold(t *testing.T) {
	t.Parallel()
	all := ways()[2:4]
	r := startWith(t, lab.Options{Backends: 1}, setup{vips: vipsOf(all), more: fmt.Sprintf("icmp_rate: 0\nencapsulation:\n  mtu: %d\n", narrow)})
	r.must(r.Client.Sysctl("net/ipv4/tcp_mtu_probing=0"))
	r.addPools()
	data := randomFile(t, largeBytes)
	for _, w := range all {
		r.addVIP(w.name, w.vip, w.mode, w.pool)
		before := r.status().Reasons["drop_too_big"]
		_, err := r.Client.Run("curl", "-sS", "--max-time", "1", "-T", data, url(w.vip, "/upload/stuck"))
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != stalled {
			t.Errorf("an upload to %s does not get stuck: %v", w.vip, err)
		}
		if got := r.status().Reasons["drop_too_big"]; got == before {
			t.Errorf("%s: no packet was dropped because it was too big", w.vip)
		}
		if got := r.learnt(r.Client, w.vip, netip.Addr{}); got != 0 {
			t.Errorf("the client learnt an MTU of %d for %s", got, w.vip)
		}
	}
	// The same configuration, but for the rate, lets them through.
	r.more = strings.Replace(r.more, "icmp_rate: 0\n", "", 1)
	r.stopDaemon()
	r.startDaemon()
	for _, w := range all {
		r.upload(w.vip, data, "told")
	}
}

// TestPathMTUToClients downloads through a link between client and balancer that is
// narrower than the backends'. Answers do not pass the balancer, but what the router
// says about them does: it tells the one backend that has the connection.
func TestPathMTUToClients(t *testing.T) {
	t.Parallel()
	all := append(ways(), crossed()...)
	r := startWith(t, lab.Options{Transit: narrow}, setup{vips: vipsOf(all), big: largeBytes})
	r.addPools()
	told := map[*lab.Host]int{}
	for i, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			on.addVIP(w.name, w.vip, w.mode, w.pool)
			// Each from an address that no backend knows yet.
			client := source(w.vip, 100+i)
			served := on.download(w.vip, client)
			for _, b := range on.Backends {
				got := on.learnt(b, client, w.vip)
				if b == served && got != narrow {
					t.Errorf("%s served and learnt an MTU of %d, want %d", b.Name, got, narrow)
				}
				if b != served && got != 0 {
					t.Errorf("%s did not serve but learnt an MTU of %d", b.Name, got)
				}
				now := on.tooBig(b)
				if (now > told[b]) != (b == served) {
					t.Errorf("%s, while %s served, got %d ICMP errors", b.Name, served.Name, now-told[b])
				}
				told[b] = now
			}
		})
	}
	if reasons := r.status().Reasons; reasons["drop_icmp_error"] > 0 {
		t.Errorf("%d ICMP errors were dropped", reasons["drop_icmp_error"])
	}
	// The control: segments that are small from the start need no error.
	w := ways()[2]
	r.cli("vip", "set", w.name, "--mss", "1300")
	served := r.download(w.vip, source(w.vip, 99))
	if now := r.tooBig(served); now != told[served] {
		t.Errorf("with an MSS of 1300, %s got %d ICMP errors", served.Name, now-told[served])
	}
}

// within is the rig in a subtest.
func (r *rig) within(t *testing.T) *rig {
	on := *r
	on.t = t
	return &on
}

// randomFile makes a file of random bytes.
func randomFile(t *testing.T, size int) string {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// source is the i-th of the addresses that the client may send from.
func source(family netip.Addr, i int) netip.Addr {
	if family.Is4() {
		return netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:113::%d", i))
}

// upload sends a file from the client, which has to arrive as it is.
func (r *rig) upload(address netip.Addr, file, name string) {
	r.t.Helper()
	out, err := r.Client.Run("curl", "-sS", "--max-time", "30", "-T", file, "-w", "%{http_code} %header{x-host}", url(address, "/upload/"+name))
	code, host, _ := strings.Cut(out, " ")
	if err != nil || code != "201" && code != "204" {
		r.t.Fatalf("upload to %s: %q, %v", address, out, err)
	}
	b, err := r.Host(host)
	r.must(err)
	want, err := os.ReadFile(file)
	r.must(err)
	if got, err := os.ReadFile(b.Uploaded(name)); err != nil || !bytes.Equal(got, want) {
		r.t.Errorf("%s got %d bytes, and not those that were sent: %v", b.Name, len(got), err)
	}
}

// learnt is the path MTU to an address that a host has learnt, 0 if none, in bytes.
func (r *rig) learnt(h *lab.Host, to, from netip.Addr) int {
	r.t.Helper()
	args := []string{"-j", "route", "get", to.String()}
	if from.IsValid() {
		args = append(args, "from", from.String())
	}
	out, err := h.Run("ip", args...)
	r.must(err)
	var routes []struct {
		Metrics []struct {
			MTU int `json:"mtu"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal([]byte(out), &routes); err != nil {
		r.t.Fatalf("ip route get on %s: %v", h.Name, err)
	}
	for _, route := range routes {
		for _, m := range route.Metrics {
			return m.MTU
		}
	}
	return 0
}

// tooBig is how many fragmentation-needed and packet-too-big messages a host got.
func (r *rig) tooBig(h *lab.Host) int {
	r.t.Helper()
	return r.nstat(h, "IcmpInDestUnreachs", "Icmp6InPktTooBigs")
}

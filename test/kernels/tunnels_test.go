package kernels

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// patience is how long a condition may take to come true in an emulated machine.
	patience = 60 * time.Second
	// silence is how long the control waits for an answer that must not come.
	silence = 2 * time.Second
	// requests per VIP: enough to see every backend.
	requests = 60
	// bigBytes is the size of /big on every backend.
	bigBytes = 1 << 20
)

// modes are the encapsulations that kernels can take off by themselves.
func modes() []string { return []string{"dsr-ipip", "dsr-gue"} }

// way is a VIP with the encapsulation that its packets travel in.
type way struct {
	name, mode string
	pool       string // by the family of its backends' addresses
	vip        netip.Addr
	device     string // the kernel's tunnel on the backends
}

func ways() []way {
	var all []way
	for i, mode := range modes() {
		plain4, plain6 := lab.VIP(10*i + 1)
		cross4, cross6 := lab.VIP(10*i + 2)
		all = append(all,
			way{mode + "-4in4", mode, "v4", plain4, "tunnel4in4"},
			way{mode + "-6in6", mode, "v6", plain6, "tunnel6"},
			way{mode + "-6in4", mode, "v4", cross6, "tunnel6in4"},
			way{mode + "-4in6", mode, "v6", cross4, "tunnel6"},
		)
	}
	return all
}

// TestTunnels balances HTTP over backends that take the outer headers off with
// tunnel devices of the kernel, and nothing of Steelyard's.
func TestTunnels(t *testing.T) {
	if os.Getenv("STEELYARD_GUEST") == "" {
		t.Skip("needs a kernel with tunnels, of which nobody else uses the modules: run make test-kernels")
	}
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d-interface", interfaces), func(t *testing.T) {
			s := newSite(t, interfaces)
			s.unanswered()
			for _, b := range s.Backends {
				s.must(decapsulate(b))
			}
			for _, w := range ways() {
				t.Run(w.name, func(t *testing.T) { s.on(t).answered(w) })
			}
		})
	}
}

// decapsulate makes the tunnels of a backend: one for each combination of
// families, from any balancer. What arrives in UDP is handed to the same tunnels.
func decapsulate(b *lab.Host) error {
	commands := []string{
		fmt.Sprintf("link add tunnel4in4 type ipip local %s remote any", b.V4),
		fmt.Sprintf("link add tunnel6in4 type sit local %s remote any", b.V4),
		fmt.Sprintf("link add tunnel6 type ip6tnl local %s remote any mode any", b.V6),
		"link set tunnel4in4 up",
		"link set tunnel6in4 up",
		"link set tunnel6 up",
		"fou add port 6080 gue",
		"fou add port 6080 gue -6",
	}
	cmd := b.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tunnels of %s: %w: %s", b.Name, err, out)
	}
	return nil
}

// site is a lab with web servers that have the VIPs' addresses, and a daemon.
type site struct {
	*lab.Lab
	t      *testing.T
	daemon *lab.Daemon
}

func newSite(t *testing.T, interfaces int) *site {
	t.Helper()
	s := &site{Lab: lab.Start(t, lab.Options{Backends: 2, Interfaces: interfaces}), t: t}
	var vips []netip.Addr
	for _, w := range ways() {
		vips = append(vips, w.vip)
	}
	for _, b := range s.Backends {
		s.must(b.PlainDSR(vips...))
		_, err := b.Nginx(t.Context(), lab.Site{BigBytes: bigBytes})
		s.must(err)
	}
	binary, err := filepath.Abs("../../bin/steelyard")
	s.must(err)
	attached, outside := "[eth0]", ""
	if interfaces == 2 {
		// The kernel checks the checksums of packets from all these sources.
		attached = "[eth0, eth1]"
		outside = "encapsulation: {gue_checksum: true, source_ipv4: 172.16.0.0/16, source_ipv6: '2001:db8:99::/112'}\n"
	}
	socket := filepath.Join(s.Balancer.Dir(), "api.sock")
	config := fmt.Sprintf("interfaces: %s\napi:\n  socket: %s\nstore: %s\n", attached, socket, filepath.Join(s.Balancer.Dir(), "state.db"))
	s.daemon, err = s.Balancer.Daemon(t.Context(), binary, socket, config+outside)
	s.must(err)
	s.cli("pool", "add", "v4", s.Backends[0].V4.String(), s.Backends[1].V4.String())
	s.cli("pool", "add", "v6", s.Backends[0].V6.String(), s.Backends[1].V6.String())
	for _, pool := range []string{"v4", "v6"} {
		s.cli("check", "add", pool, "http", "--port", "80", "--path", "/healthz", "--interval", "1s", "--timeout", "1s", "--rise", "1", "--fall", "10")
	}
	for _, w := range ways() {
		s.cli("vip", "add", w.name, netip.AddrPortFrom(w.vip, 80).String(), "--mode", w.mode, "--pool", w.pool)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s.must(lab.WaitFor(ctx, "all backends are up", s.allUp))
	return s
}

// on is the site within another test.
func (s *site) on(t *testing.T) *site { return &site{s.Lab, t, s.daemon} }

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) cli(args ...string) string {
	s.t.Helper()
	out, err := s.daemon.CLI(args...)
	s.must(err)
	return out
}

func (s *site) allUp() error {
	out, err := s.daemon.CLI("status", "-o", "json")
	if err != nil {
		return err
	}
	var status struct {
		Pools []struct {
			Name     string `json:"name"`
			Backends []struct {
				Address string `json:"address"`
				Health  string `json:"health"`
				Slots   int    `json:"slots"`
			} `json:"backends"`
		} `json:"pools"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return fmt.Errorf("steelyard status -o json: %w", err)
	}
	up := 0
	for _, pool := range status.Pools {
		for _, b := range pool.Backends {
			if b.Slots == 0 {
				return fmt.Errorf("%s of pool %s is %s", b.Address, pool.Name, b.Health)
			}
			up++
		}
	}
	if want := 2 * len(s.Backends); up != want {
		return fmt.Errorf("%d backends are up, want %d", up, want)
	}
	return nil
}

// unanswered is the control: as long as backends have no tunnels, nobody answers.
func (s *site) unanswered() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), silence)
	defer cancel()
	var wg sync.WaitGroup
	for _, w := range ways() {
		wg.Go(func() {
			conn, err := s.Client.Dial(ctx, "tcp", netip.AddrPortFrom(w.vip, 80).String(), netip.Addr{})
			if err == nil {
				conn.Close()
				s.t.Errorf("%s is answered though backends have no tunnels", w.name)
			}
		})
	}
	wg.Wait()
}

// answered wants every request answered, by every backend in turn, out of the
// kernel's tunnel, and a large answer to arrive whole.
func (s *site) answered(w way) {
	s.t.Helper()
	before := s.received(w)
	url := "http://" + netip.AddrPortFrom(w.vip, 80).String()
	answers := s.Client.Fetch(s.t.Context(), url+"/", requests, 8)
	if answers.Good() != requests {
		s.t.Errorf("%d of %d requests were answered: %v", answers.Good(), requests, answers.Failures)
	}
	big := s.Client.Fetch(s.t.Context(), url+"/big", 2, 1)
	for body, n := range big.Bodies {
		if len(body) != bigBytes || n != 2 {
			s.t.Errorf("/big has %d bytes, %d times, want %d, twice", len(body), n, bigBytes)
		}
	}
	if big.Good() != 2 {
		s.t.Errorf("/big failed: %v", big.Failures)
	}
	for i, packets := range s.received(w) {
		b := s.Backends[i]
		// Each request takes a SYN, an ACK, the request itself and a FIN.
		if got, least := packets-before[i], uint64(4*answers.Bodies[b.Name]); answers.Bodies[b.Name] == 0 || got < least {
			s.t.Errorf("%s answered %d requests; its %s took %d packets, want %d or more", b.Name, answers.Bodies[b.Name], w.device, got, least)
		}
	}
	s.t.Logf("answers: %v", answers.Bodies)
}

// received counts the packets that came out of each backend's tunnel.
func (s *site) received(w way) []uint64 {
	s.t.Helper()
	var all []uint64
	for _, b := range s.Backends {
		s.must(b.Do(func() error {
			link, err := netlink.LinkByName(w.device)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", w.device, b.Name, err)
			}
			all = append(all, link.Attrs().Statistics.RxPackets)
			return nil
		}))
	}
	return all
}

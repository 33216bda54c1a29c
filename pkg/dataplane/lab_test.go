package dataplane

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/test/namespace"
)

// XDP verdicts (linux/bpf.h).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
)

// loopback is where packets of test runs come from.
const loopback = 1

// testSeed is what test runs hash with.
func testSeed() Seed { return Seed{0x0123456789abcdef, 0xfedcba9876543210} }

// testOptions are those of a daemon that is told nothing, but for the seed and that
// it does not screen: tests make flows from any address.
func testOptions() Options { return Options{Seed: testSeed(), ICMPRate: 1000} }

// withRoom completes limits with room for the endpoints of the VIPs.
func withRoom(l Limits) Limits {
	if l.Endpoints == 0 {
		l.Endpoints = l.VIPs
	}
	return l
}

// smallLimits are enough for the packet table.
func smallLimits() Limits {
	return Limits{VIPs: 256, Endpoints: 256, Pools: 128, Backends: 1024, Slots: 1 << 16, Fragments: 1 << 10, SourceLists: 8, Sources: 1 << 12}
}

func applyTo(t testing.TB, p *Plane, state forwarding.State) {
	t.Helper()
	if err := p.Apply(state); err != nil {
		t.Fatal(err)
	}
}

// space is a network namespace of the test's own.
type space struct {
	namespace.Namespace
}

func newSpace(t testing.TB) space {
	t.Helper()
	return space{namespace.New(t)}
}

func (s space) do(f func() error) error { return s.Do(f) }

// veth adds a pair of interfaces and returns the index of the first.
func (s space) veth(t testing.TB, name, peer string) int {
	t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
	if err := s.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{name, peer} {
		l, err := s.LinkByName(end)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	l, err := s.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

// send puts one frame through the program and returns its verdict and the frame.
func send(p *Plane, frame []byte) (uint32, []byte, error) {
	return sendWith(p, ebpf.RunOptions{Data: frame})
}

func sendWith(p *Plane, opts ebpf.RunOptions) (uint32, []byte, error) {
	opts.DataOut = make([]byte, len(opts.Data)+256)
	verdict, err := p.Program().Run(&opts)
	return verdict, opts.DataOut, err
}

// row is a line of the packet table.
type row struct {
	name string
	// before are frames that come before, and of which nothing is said.
	before [][]byte
	in     []byte
	// out is nil where the frame is to stay as it was.
	out    []byte
	reason string
	// vip and backend, where not empty, count the packet, of size bytes.
	vip     string
	backend BackendKey
	size    int
	opener  bool
	// rough frames are not meant to be well-formed.
	rough bool
	// context is what the driver says of the packet, if it is out of the ordinary.
	context *xdpContext
	// arrange is done before all else.
	arrange func() error
	// expect, where not nil, is what out is to be, given what leaves.
	expect func([]byte) []byte
	// spoilt: it is dropped when it has been changed already.
	spoilt bool
}

// xdpContext is struct xdp_md; Data is the length of the metadata before the frame.
type xdpContext struct {
	Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32
}

// lab is a Plane with the services of the packet table.
type lab struct {
	*Plane
	space
	services []service
	// seen are the counters after the last row, which are those before the next.
	seen *Counters
	// runs are done one after the other by a thread in the namespace.
	runs chan func()
}

// run puts a frame through the program, in the namespace: a thread for each would
// take most of the time.
func (l *lab) run(opts ebpf.RunOptions) (verdict uint32, out []byte, err error) {
	l.seen = nil
	done := make(chan struct{})
	l.runs <- func() {
		verdict, out, err = sendWith(l.Plane, opts)
		close(done)
	}
	<-done
	return verdict, out, err
}

// serve has a thread do the runs until the test ends.
func (l *lab) serve(t testing.TB) {
	l.runs = make(chan func())
	ended := make(chan error)
	go func() {
		ended <- l.do(func() error {
			for f := range l.runs {
				f()
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		close(l.runs)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabWith(t, testOptions())
}

func newLabWith(t testing.TB, options Options) *lab {
	t.Helper()
	l := &lab{space: newSpace(t)}
	l.services = services(l.veth(t, "out", "outpeer"))
	for i := range l.services {
		l.services[i].options = options
	}
	l.Plane = loadedWith(t, smallLimits(), options)
	l.serve(t)
	// The devmap takes interfaces of the namespace of whoever writes to it.
	if err := l.do(func() error { return l.Apply(stateOf(l.services)) }); err != nil {
		t.Fatal(err)
	}
	return l
}

// check sends a row's frame and reports every difference from what the row says.
func (l *lab) check(r row) error {
	if r.arrange != nil {
		if err := r.arrange(); err != nil {
			return err
		}
	}
	for _, frame := range r.before {
		if _, _, err := l.run(ebpf.RunOptions{Data: frame}); err != nil {
			return err
		}
	}
	before, err := l.countersBefore(r)
	if err != nil {
		return err
	}
	opts := ebpf.RunOptions{Data: r.in}
	if r.context != nil {
		opts.Context = *r.context
	}
	verdict, out, err := l.run(opts)
	if err != nil {
		return err
	}
	after, err := l.Counters()
	if err != nil {
		return err
	}
	l.seen = &after
	want := r.leaves(out)
	errs := []error{checkVerdict(verdict, r.reason), checkBytes(out, want), checkCounters(before, after, r)}
	if !r.rough && !r.spoilt {
		errs = append(errs, wellFormed(r.in), wellFormed(want))
	}
	return errors.Join(errs...)
}

// leaves is what the row expects, given what has come out.
func (r row) leaves(out []byte) []byte {
	switch {
	case r.expect != nil:
		return r.expect(out)
	case r.spoilt:
		return out
	case r.out == nil:
		return r.in
	}
	return r.out
}

func (l *lab) countersBefore(r row) (Counters, error) {
	if l.seen != nil && len(r.before) == 0 {
		return *l.seen, nil
	}
	return l.Counters()
}

// count is how many packets have left for a reason.
func (p *Plane) count(t testing.TB, reason string) uint64 {
	t.Helper()
	c, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Reasons {
		if r.Name == reason {
			return r.Packets
		}
	}
	t.Fatalf("no reason is called %q", reason)
	return 0
}

// checkVerdict holds a verdict against the prefix of a reason.
func checkVerdict(verdict uint32, reason string) error {
	prefix, _, _ := strings.Cut(reason, "_")
	want := map[string]uint32{"pass": xdpPass, "tx": xdpTX, "redirect": xdpRedirect, "drop": xdpDrop}[prefix]
	if verdict != want {
		return fmt.Errorf("verdict %d, want %d", verdict, want)
	}
	return nil
}

func checkBytes(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("frames differ at byte %d:\ngot  %d bytes\n%swant %d bytes\n%s", at, len(got), dump(got), len(want), dump(want))
}

func dump(b []byte) string { return hex.Dump(b[:min(len(b), 160)]) }

// checkCounters wants exactly the row's counters to have moved, by one packet.
func checkCounters(before, after Counters, r row) error {
	var errs []error
	one := model.Counters{Packets: 1, Bytes: uint64(r.size)}
	if r.opener {
		one.Connections = 1
	}
	known := false
	for i, reason := range after.Reasons {
		want := uint64(0)
		if reason.Name == r.reason {
			want, known = 1, true
		}
		if got := reason.Packets - before.Reasons[i].Packets; got != want {
			errs = append(errs, fmt.Errorf("reason %s went up by %d, want %d", reason.Name, got, want))
		}
	}
	if !known {
		errs = append(errs, fmt.Errorf("no reason is called %q", r.reason))
	}
	errs = append(errs, checkMoved("VIP", before.VIPs, after.VIPs, r.vip, one))
	errs = append(errs, checkMoved("backend", before.Backends, after.Backends, r.backend, one))
	return errors.Join(errs...)
}

func checkMoved[K comparable](what string, before, after map[K]model.Counters, name K, one model.Counters) error {
	var errs []error
	var none K
	if _, known := after[name]; !known && name != none {
		errs = append(errs, fmt.Errorf("no %s %v", what, name))
	}
	for key, now := range after {
		want := before[key]
		if key == name {
			want = plus(want, one)
		}
		if now != want {
			errs = append(errs, fmt.Errorf("%s %v counts %+v, want %+v", what, key, now, want))
		}
	}
	return errors.Join(errs...)
}

func plus(a, b model.Counters) model.Counters {
	return model.Counters{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes, Connections: a.Connections + b.Connections}
}

// settledPool is a pool whose every slot belongs to one of the given backends in turn.
func settledPool(name string, slots uint32, backends ...netip.Addr) forwarding.Pool {
	pool := forwarding.Pool{Name: name, Slots: slots}
	for _, address := range backends {
		id := model.BackendID{Address: address}
		pool.Backends = append(pool.Backends, forwarding.Backend{ID: id, Takes: true, Keeps: true})
		pool.Members = append(pool.Members, forwarding.Member{ID: id, Weight: 1})
	}
	slices.SortFunc(pool.Backends, func(a, b forwarding.Backend) int { return a.ID.Compare(b.ID) })
	if len(backends) == 0 {
		return pool
	}
	pool.Table = inTurn(slots, len(backends))
	return pool
}

// fixedTable is a table that a test has made up.
type fixedTable struct{ owners []uint32 }

func (t *fixedTable) Owners() []uint32 { return t.owners }

func (t *fixedTable) Shares() []uint32 { panic("the data plane does not ask for it") }

// inTurn gives slots to so many members in turn.
func inTurn(slots uint32, members int) forwarding.Table {
	t := &fixedTable{make([]uint32, slots)}
	for i := range t.owners {
		t.owners[i] = uint32(i % members)
	}
	return t
}

package neighbor

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxPrefixes is how many changed routes are told apart between two settlings.
const maxPrefixes = 256

// state mirrors the part of the kernel's state that the wanted addresses
// depend on. One goroutine owns it: it applies notifications, which only mark
// what has to be looked at again, and settles.
type state struct {
	kernel  *netlink.Handle
	devices devices
	// routes has a key for every wanted address.
	routes  map[netip.Addr]route
	entries map[entryKey]*entry
	table   Table

	todo todo
}

// todo is what the next settling looks at again.
type todo struct {
	devices, routes, entries bool
	// prefixes are changed routes, addrs wanted addresses without a route yet.
	prefixes []netip.Prefix
	addrs    []netip.Addr
	// set says that the set of wanted addresses changed.
	set bool
	// touched are the entries with news.
	touched map[entryKey]struct{}
}

func newState(kernel *netlink.Handle) *state {
	s := &state{kernel: kernel, routes: map[netip.Addr]route{}, entries: map[entryKey]*entry{}, table: Table{}}
	s.todo.touched = map[entryKey]struct{}{}
	s.resync()
	return s
}

// resync makes the next settling look at everything.
func (s *state) resync() {
	s.todo.devices, s.todo.routes, s.todo.entries = true, true, true
}

// retry makes the next settling look at all neighbours if there is one that is
// not resolved, and reports whether there is.
func (s *state) retry() bool {
	for _, e := range s.entries {
		if e.phase != resolved {
			s.todo.entries = true
			return true
		}
	}
	return false
}

// want replaces the set of wanted addresses.
func (s *state) want(addrs []netip.Addr) {
	wanted := make(map[netip.Addr]struct{}, len(addrs))
	for _, addr := range addrs {
		addr = addr.Unmap()
		if !addr.IsValid() {
			continue
		}
		wanted[addr] = struct{}{}
		if _, ok := s.routes[addr]; !ok {
			s.routes[addr] = route{}
			s.todo.addrs = append(s.todo.addrs, addr)
			s.todo.set = true
		}
	}
	for addr := range s.routes {
		if _, ok := wanted[addr]; !ok {
			delete(s.routes, addr)
			s.todo.set = true
		}
	}
}

// apply takes notifications and reports whether settling is called for.
func (s *state) apply(n notice) bool {
	if n.lost {
		s.resync()
		return true
	}
	relevant := false
	for i := range n.messages {
		if s.applyMessage(&n.messages[i]) {
			relevant = true
		}
	}
	return relevant
}

func (s *state) applyMessage(m *syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return s.applyNeighbor(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		prefix, ok := routePrefix(m.Data)
		if !ok {
			return false
		}
		if len(s.todo.prefixes) == maxPrefixes {
			s.todo.routes = true
		}
		if !s.todo.routes {
			s.todo.prefixes = append(s.todo.prefixes, prefix)
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		s.todo.devices = true
	default:
		// An address, rule or next-hop object.
		s.todo.routes = true
	}
	return true
}

func (s *state) applyNeighbor(m *syscall.NetlinkMessage) bool {
	n, err := netlink.NeighDeserialize(m.Data)
	if err != nil {
		s.todo.entries = true
		return true
	}
	key, ok := keyOf(n)
	if !ok {
		return false
	}
	e, ok := s.entries[key]
	if !ok {
		return false
	}
	if m.Header.Type == unix.RTM_DELNEIGH {
		n.State = netlink.NUD_NONE
	}
	e.observe(n.State, n.HardwareAddr)
	s.todo.touched[key] = struct{}{}
	return true
}

// settle looks at what is to do and reports whether the table is a new one.
// The table's map is never written to again.
func (s *state) settle() (bool, error) {
	if err := s.settleDevices(); err != nil {
		return false, err
	}
	rerouted := s.settleRoutes()
	if rerouted || s.todo.entries {
		s.follow()
		if err := s.reconcileEntries(); err != nil {
			return false, err
		}
	}
	s.askKernel()
	next := s.nextTable(rerouted || s.todo.entries)
	clear(s.todo.touched)
	s.todo = todo{touched: s.todo.touched}
	if next == nil || maps.Equal(next, s.table) {
		return false, nil
	}
	s.table = next
	return true, nil
}

func (s *state) settleDevices() error {
	if !s.todo.devices {
		return nil
	}
	links, err := dump(s.kernel.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	next := newDevices(links)
	// IPv4 drops the routes of an interface that goes down without a
	// notification for any of them.
	if !maps.EqualFunc(s.devices, next, device.equal) {
		s.todo.routes = true
	}
	s.devices = next
	return nil
}

// settleRoutes looks up what may have another route, and reports whether there
// was anything to do.
func (s *state) settleRoutes() bool {
	if s.todo.routes {
		for addr := range s.routes {
			s.reroute(addr)
		}
		return true
	}
	rerouted := s.todo.set
	for _, addr := range s.todo.addrs {
		if _, ok := s.routes[addr]; ok {
			s.reroute(addr)
		}
	}
	if len(s.todo.prefixes) == 0 {
		return rerouted
	}
	for addr := range s.routes {
		if slices.ContainsFunc(s.todo.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			s.reroute(addr)
			rerouted = true
		}
	}
	return rerouted
}

func (s *state) reroute(addr netip.Addr) {
	last := s.routes[addr].link
	r := lookup(s.kernel, addr)
	if r.problem != "" {
		r.link = last
		if d, ok := s.devices[last]; ok && d.problem() != "" {
			r.problem += ": " + d.problem()
		}
	}
	s.routes[addr] = r
}

// follow makes the entries those that the routes name.
func (s *state) follow() {
	for _, e := range s.entries {
		e.users = e.users[:0]
	}
	for addr, r := range s.routes {
		if r.problem != "" {
			continue
		}
		key := entryKey{r.link, r.nextHop}
		e, ok := s.entries[key]
		if !ok {
			e = &entry{}
			s.entries[key] = e
		}
		e.users = append(e.users, addr)
	}
	maps.DeleteFunc(s.entries, func(_ entryKey, e *entry) bool { return len(e.users) == 0 })
}

// reconcileEntries compares all entries with the kernel's tables.
func (s *state) reconcileEntries() error {
	list, err := dump(func() ([]netlink.Neigh, error) { return s.kernel.NeighList(0, unix.AF_UNSPEC) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	known := make(map[entryKey]*netlink.Neigh, len(s.entries))
	for i := range list {
		if key, ok := keyOf(&list[i]); ok && s.entries[key] != nil {
			known[key] = &list[i]
		}
	}
	for key, e := range s.entries {
		if n := known[key]; n != nil {
			e.reconcile(n.State, n.HardwareAddr)
		} else {
			e.reconcile(netlink.NUD_NONE, nil)
		}
		s.todo.touched[key] = struct{}{}
	}
	return nil
}

// askKernel tells the kernel to resolve what needs it, as sending a packet
// would. NTF_USE keeps the state of an entry that exists; on one that is
// permanent it would clear that, so those are never asked for.
func (s *state) askKernel() {
	for key := range s.todo.touched {
		e := s.entries[key]
		if e == nil || !e.ask {
			continue
		}
		out := s.devices.egress(key.link)
		if out.Problem != "" {
			continue
		}
		e.ask = false
		err := s.kernel.NeighSet(&netlink.Neigh{
			LinkIndex: key.link,
			IP:        key.addr.AsSlice(),
			State:     netlink.NUD_NONE,
			Flags:     netlink.NTF_USE,
		})
		e.refusal = ""
		if err != nil {
			e.refusal = refusalOf(key, s.devices[key.link].name, err)
		}
	}
}

// nextTable computes all hops, or those of the touched entries. It is nil if
// none of the latter changed.
func (s *state) nextTable(all bool) Table {
	if all {
		next := make(Table, len(s.routes))
		for addr := range s.routes {
			next[addr] = s.hop(addr)
		}
		return next
	}
	var next Table
	for key := range s.todo.touched {
		e := s.entries[key]
		if e == nil {
			continue
		}
		for _, addr := range e.users {
			hop := s.hop(addr)
			if hop == s.table[addr] {
				continue
			}
			if next == nil {
				next = maps.Clone(s.table)
			}
			next[addr] = hop
		}
	}
	return next
}

func (s *state) hop(addr netip.Addr) Hop {
	r := s.routes[addr]
	if r.problem != "" {
		return Hop{Problem: r.problem}
	}
	hop := s.devices.egress(r.link)
	hop.OnLink = r.nextHop == addr
	hop.SourceIP = r.source
	if r.mtu > 0 {
		hop.MTU = min(hop.MTU, r.mtu)
	}
	if hop.Problem != "" {
		return hop
	}
	e := s.entries[entryKey{r.link, r.nextHop}]
	if hop.Problem = e.problem(r.nextHop, s.devices[r.link].name); hop.Problem == "" {
		hop.Destination = e.mac
	}
	return hop
}

// dump repeats a listing that changes interrupted a few times. What it still
// misses then, notifications or the next resync bring.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 4 {
		items, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
	items, err := list()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil
	}
	return items, err
}

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// Limits size the maps, which take their memory when they are made.
type Limits struct {
	// VIPs, Pools and Backends (of all pools together), 1 to 10000, 65535
	// and 1<<20 - 3; a pool takes room for a power of two of backends.
	VIPs, Pools, Backends uint32
	// Endpoints of all VIPs together, 1 to 10000; a range of ports is one.
	Endpoints uint32
	// Slots of all pools together, up to 1<<28, 4 bytes each.
	Slots uint32
	// Flows that the flow table has room for, rounded up to a power of two, 16
	// bytes each.
	Flows uint32
	// Fragments are how many fragmented packets are remembered at once, rounded
	// up to a power of two, 16 bytes each.
	Fragments uint32
	// Splices are how many connections that began with a SYN cookie are remembered.
	Splices uint32
	// SourceLists that VIPs use, 1 to 4096. They take memory when they are used.
	SourceLists uint32
	// Sources whose packets or connections are limited at once, rounded up to a power of
	// two, 16 bytes each; one has two if both are.
	Sources uint32
}

// Options are constants of the packet path.
type Options struct {
	Seed Seed
	// SourceIPv4 and SourceIPv6 are prefixes of at least 16 bits less than an
	// address whose host bits tell flows apart in the outer source address. Its other
	// bits are those of [forwarding.Path]. The zero Prefix spreads nothing.
	SourceIPv4, SourceIPv6 netip.Prefix
	// GUEPort is the UDP port that backends decapsulate, in host byte order; 0 is
	// [DefaultGUEPort].
	GUEPort uint16
	// GUEChecksum gives outer UDP headers a checksum.
	GUEChecksum bool
	// ICMPRate is how many ICMP errors each CPU answers in a second; 0: none.
	ICMPRate uint32
	// NATSourceIPv4 and NATSourceIPv6 are prefixes of at most 10 bits less than an
	// address: all addresses that fullnat sends from. The zero Prefix: backends of that
	// family are unresolved under fullnat.
	NATSourceIPv4, NATSourceIPv6 netip.Prefix
	// NATPorts are the ports that fullnat uses of each of these addresses, 64 at least.
	NATPorts model.PortRange
	// Screening drops packets for a VIP that no host sends; see bpf/screen.h.
	Screening bool
}

// DefaultGUEPort is the port of GUE at IANA.
const DefaultGUEPort = 6080

// slotsPerLine is how many slots an element of the map holds; see bpf/maps.h.
const slotsPerLine = 16

// Plane is the packet path in the kernel with its maps.
type Plane struct {
	program *ebpf.Program
	// parts are the programs that the first one calls for what few packets are.
	parts map[lbPart]*ebpf.Program
	maps  lbMaps
	// controlMap and displacementsMap hold variables of the program.
	controlMap, displacementsMap *ebpf.Map
	reasons                      []string
	limits                       Limits
	seed                         Seed
	random                       *rand.Rand

	// pin is where everything outlives the Plane, nil where it does not; adopted
	// says that it has outlived another one, whose attachments are links.
	pin     *pinning
	adopted bool
	links   map[string]string
	// former are the maps of other sizes that the program of a former Plane still
	// uses, until Attach.
	former map[string]*ebpf.Map

	control       memory[lbControl]
	displacements memory[lbDisplacements]
	vips          memory[lbVipEntry]
	pools         memory[lbPool]
	slots         memory[lbSlotLine]
	backends      memory[lbBackend]
	rooms         memory[lbRoom]
	flows         memory[lbFlowBucket]
	ledger        memory[lbLedgerPage]

	vipCounters, backendCounters counterRows

	ranges    memory[lbPortRange]
	terms     memory[lbVipTerms]
	fragments memory[lbFlowBucket]
	guards    memory[lbGuard]

	// natSources are where connections of fullnat come from.
	natSources natSources
	// formerSources are those of the former maps.
	formerSources natSources
	endpoints     memory[lbNatEndpoint]
	translations  memory[lbTranslation]
	sessions      memory[lbSessionBucket]
	natPorts      memory[lbNatPortsLine]
	natTimeouts   memory[lbNatTimeout]
	synGiven      memory[uint64]

	numbers numbers
	applied applied
	// directory is the VIPs that packets find.
	directory *directory
	// serverIDs are what QUIC connection IDs may call backends, as the map has it.
	serverIDs map[lbServerId]uint32
	lists     sourceLists
	// vipByID and placeByBackend find what the numbers in a flow stand for.
	vipByID        map[uint32]*vip
	placeByBackend []*place

	// now is the flow table's clock; epoch counts the states applied.
	now   flux.Tick
	epoch uint64
	// ghosts and goneVIPs are no longer applied, but flows may name them.
	ghosts   []ghost
	goneVIPs []goneVIP

	// sweeping is the pass under way, nil between passes; the rest is what
	// the last one found.
	sweeping               *sweep
	stats                  SweepStats
	liveBackends, liveVIPs map[uint32]uint32
	events                 FlowEvents
	// lost says when the flow table last gave up a live flow's entry.
	lost  flux.Tick
	lossy bool

	// roomed are the backends with a limit of connections, which roomByIndex finds.
	roomed      []*roomed
	roomByIndex map[uint32]*roomed

	attached []attachment
}

// Load creates maps and program in the kernel, attached to nothing yet. All of it
// is gone when the Plane is closed, which the caller does. It needs CAP_BPF,
// CAP_NET_ADMIN and CAP_PERFMON, and Linux 6.1, the oldest that is tested.
func Load(limits Limits, options Options) (*Plane, error) { return load(nil, limits, options, nil) }

// LoadRewritten does the same with programs that rewrite, unless it is nil, has changed
// before they are loaded: to count in them, for one. They must do to packets what they did,
// and the maps must be left as they are.
func LoadRewritten(limits Limits, options Options, rewrite func(*ebpf.CollectionSpec) error) (*Plane, error) {
	return load(nil, limits, options, rewrite)
}

// Open does the same with everything pinned under a path in a bpffs, so that it
// outlives the Plane. What a former one left there it adopts: packets go on to
// meet what they met, until the next Apply, and flows stay known. Where the limits
// are others, what the maps hold is carried over into new ones. It refuses what a
// version of another layout or another seed left, or what the limits do not hold.
func Open(path string, limits Limits, options Options) (*Plane, error) {
	pin, err := openPinning(path)
	if err != nil {
		return nil, xdp.Explain(err)
	}
	p, err := load(pin, limits, options, nil)
	if err != nil {
		return nil, errors.Join(err, pin.close())
	}
	return p, nil
}

func load(pin *pinning, limits Limits, options Options, rewrite func(*ebpf.CollectionSpec) error) (*Plane, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory: %w", xdp.Explain(err))
	}
	spec, err := loadLb()
	if err != nil {
		return nil, err
	}
	if err := specialize(spec, limits, options); err != nil {
		return nil, err
	}
	if rewrite != nil {
		if err := rewrite(spec); err != nil {
			return nil, err
		}
	}
	p, err := newPlane(spec, limits, options)
	if err != nil {
		return nil, err
	}
	p.pin = pin
	if err := p.create(spec); err != nil {
		return nil, err
	}
	if err := p.takeOver(); err != nil {
		p.pin = nil // the caller closes it
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// newPlane is a Plane without anything in the kernel yet.
func newPlane(spec *ebpf.CollectionSpec, limits Limits, options Options) (*Plane, error) {
	reasons, err := reasonNames(spec)
	if err != nil {
		return nil, err
	}
	return &Plane{
		reasons:    reasons,
		limits:     limits,
		seed:       options.Seed,
		natSources: sourcesOf(options),
		random:     rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		numbers:    newNumbers(limits),
		applied:    newApplied(),
		vipByID:    map[uint32]*vip{},

		directory: &directory{},
		serverIDs: map[lbServerId]uint32{},
		lists:     sourceLists{lists: map[string]sourceList{}, spec: spec.Maps[lbMapSourceLists].InnerMap.Copy()},

		placeByBackend: make([]*place, limits.Backends+uint32(lbOwnerOWNER_FIRST)),
	}, nil
}

// kernelObjects are the programs with their maps.
type kernelObjects struct {
	lbObjects
	Control       *ebpf.Map `ebpf:".data.control"`
	Displacements *ebpf.Map `ebpf:".data.displacements"`
}

// create loads the program, over the pinned maps if there are any of these sizes.
func (p *Plane) create(spec *ebpf.CollectionSpec) error {
	var options ebpf.CollectionOptions
	if p.pin != nil {
		pinned, same, err := p.pin.load(spec)
		if err != nil {
			return err
		}
		p.adopted = len(pinned) > 0
		if p.adopted && same {
			same, err = p.sameSources(pinned[lbMapLedger])
		}
		if err != nil {
			return errors.Join(err, closeMaps(pinned))
		}
		if same {
			options.MapReplacements = pinned
		} else {
			p.former = pinned
		}
	}
	var objects kernelObjects
	if err := spec.LoadAndAssign(&objects, &options); err != nil {
		return errors.Join(fmt.Errorf("load the packet path: %w", xdp.Explain(err)), closeMaps(options.MapReplacements), closeMaps(p.former))
	}
	if err := p.use(objects); err != nil {
		return err
	}
	return closeMaps(options.MapReplacements)
}

// use makes objects those of the Plane, which closes them.
func (p *Plane) use(objects kernelObjects) error {
	p.program, p.maps = objects.Steelyard, objects.lbMaps
	p.controlMap, p.displacementsMap = objects.Control, objects.Displacements
	p.parts = map[lbPart]*ebpf.Program{
		lbPartPART_NOT_PLAIN: objects.SteelyardPart, lbPartPART_NAT: objects.SteelyardNat,
		lbPartPART_NAT_FRAGMENT: objects.SteelyardNatFragment, lbPartPART_NAT_ERROR: objects.SteelyardNatError,
		lbPartPART_SYN: objects.SteelyardSyn,
	}
	// Pinned maps have those of a former daemon, which are another one's parts.
	for which, part := range p.parts {
		if err := p.maps.Parts.Put(uint32(which), part); err != nil {
			return fmt.Errorf("the packet path's further programs: %w", err)
		}
	}
	return nil
}

// takeOver maps the memories and, where there were pinned maps, adopts what they hold.
func (p *Plane) takeOver() error {
	if err := p.mapMemories(); err != nil {
		return err
	}
	defer p.markPorts()
	switch {
	case p.pin == nil:
		return nil
	case !p.adopted:
		if err := p.record(nil); err != nil {
			return err
		}
		return p.pin.save(mapsInUse, p.mapsByName())
	}
	err := p.adoptPinned()
	if err != nil {
		return fmt.Errorf("adopt what is pinned in %s: %w; go back to what made it, or let go of its connections with: steelyard detach", p.pin.dir(), err)
	}
	// Until a sweep has shown otherwise, flows are alive.
	p.stats.Live = 1
	p.events, err = p.FlowEvents()
	return err
}

// adoptPinned takes over the pinned maps, or what is in those of other sizes.
func (p *Plane) adoptPinned() error {
	if p.former != nil {
		return p.carryOver()
	}
	l, err := p.readLedger(p.ledger)
	if err != nil {
		return err
	}
	if err := p.adoptServerIDs(p.maps.ServerIds); err != nil {
		return err
	}
	if err := p.adoptSourceLists(); err != nil {
		return err
	}
	return p.adopt(l)
}

// Adopted reports whether a former daemon's maps were taken over.
func (p *Plane) Adopted() bool { return p.adopted }

// The sections of variables: what tells packets how things stand, and how far the keys of
// the VIP tables are displaced.
const (
	mapControl       = ".data.control"
	mapDisplacements = ".data.displacements"
)

func (p *Plane) mapsByName() map[string]*ebpf.Map {
	m := &p.maps
	return map[string]*ebpf.Map{
		lbMapBackendRows: m.BackendRows, lbMapBackends: m.Backends, lbMapRooms: m.Rooms, mapControl: p.controlMap, mapDisplacements: p.displacementsMap,
		lbMapEgress: m.Egress, lbMapFlowEvents: m.FlowEvents, lbMapFlows: m.Flows, lbMapLedger: m.Ledger,
		lbMapPools: m.Pools, lbMapReasons: m.Reasons, lbMapSlots: m.Slots, lbMapVipRows: m.VipRows, lbMapVipEntries: m.VipEntries,
		lbMapAllowances: m.Allowances, lbMapFragments: m.Fragments, lbMapParts: m.Parts, lbMapPortRanges: m.PortRanges, lbMapServerIds: m.ServerIds, lbMapTerms: m.Terms,
		lbMapCourses: m.Courses, lbMapNatEndpoints: m.NatEndpoints, lbMapNatPorts: m.NatPorts, lbMapNatTimeouts: m.NatTimeouts,
		lbMapSessions: m.Sessions, lbMapTranslations: m.Translations,
		lbMapSplices: m.Splices, lbMapSynGiven: m.SynGiven,
		lbMapGuardCounters: m.GuardCounters, lbMapGuards: m.Guards, lbMapSourceLists: m.SourceLists,
		lbMapSourceBuckets: m.SourceBuckets, lbMapVipBuckets: m.VipBuckets,
	}
}

// specialize sizes the maps and sets the program's constants.
func specialize(spec *ebpf.CollectionSpec, limits Limits, options Options) error {
	size(spec, limits)
	sources := sourcesOf(options)
	sources.size(spec)
	port := options.GUEPort
	if port == 0 {
		port = DefaultGUEPort
	}
	cost := uint64(0)
	if options.ICMPRate > 0 {
		cost = uint64(time.Second) / uint64(options.ICMPRate)
	}
	constants := sources.constants()
	maps.Copy(constants, map[string]any{
		lbVarHashSeed:     options.Seed,
		lbVarFlowMask:     flowBuckets(limits) - 1,
		lbVarFragmentMask: fragmentBuckets(limits) - 1,
		lbVarSpreadIpv4:   spreadMask(options.SourceIPv4),
		lbVarSpreadIpv6:   spreadMask(options.SourceIPv6),
		lbVarGuePort:      bits.ReverseBytes16(port),
		lbVarGueChecksum:  options.GUEChecksum,
		lbVarIcmpCost:     cost,
		lbVarScreening:    options.Screening,
		lbVarSourceMask:   sourceLines(limits) - 1,
		lbVarVipRow:       rowOf(limits.VIPs),
		lbVarBackendRow:   rowOf(limits.Backends + uint32(lbOwnerOWNER_FIRST)),
	})
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("constant %s: %w", name, err)
		}
	}
	return nil
}

// spreadMask has the host bits of a prefix, as the last two bytes of an address
// lie on the wire.
func spreadMask(prefix netip.Prefix) uint16 {
	if !prefix.IsValid() {
		return 0
	}
	host := prefix.Addr().BitLen() - prefix.Bits()
	return bits.ReverseBytes16(uint16(1<<min(host, 16) - 1))
}

func size(spec *ebpf.CollectionSpec, limits Limits) {
	spec.Maps[mapControl].Flags = unix.BPF_F_MMAPABLE
	spec.Maps[mapDisplacements].Flags = unix.BPF_F_MMAPABLE
	spec.Maps[lbMapLedger].MaxEntries = ledgerPages(limits)
	spec.Maps[lbMapFlows].MaxEntries = flowBuckets(limits)
	spec.Maps[lbMapFragments].MaxEntries = fragmentBuckets(limits)
	spec.Maps[lbMapVipEntries].MaxEntries = 2 * vipEntries(limits)
	spec.Maps[lbMapPortRanges].MaxEntries = 2 * portRanges(limits)
	spec.Maps[lbMapTerms].MaxEntries = 2 * limits.VIPs
	spec.Maps[lbMapNatEndpoints].MaxEntries = 2 * limits.Endpoints
	spec.Maps[lbMapNatTimeouts].MaxEntries = limits.VIPs
	spec.Maps[lbMapVipRows].MaxEntries = rowsOf(limits.VIPs)
	sizeSplices(spec, limits)
	spec.Maps[lbMapGuardCounters].MaxEntries = limits.VIPs
	spec.Maps[lbMapVipBuckets].MaxEntries = limits.VIPs
	spec.Maps[lbMapSourceBuckets].MaxEntries = sourceLines(limits)
	spec.Maps[lbMapGuards].MaxEntries = limits.VIPs + 1
	spec.Maps[lbMapSourceLists].MaxEntries = sourceListNumbers(limits)
	spec.Maps[lbMapPools].MaxEntries = limits.Pools
	spec.Maps[lbMapSlots].MaxEntries = slotLines(limits)
	spec.Maps[lbMapServerIds].MaxEntries = serverIDsPerBackend * limits.Backends
	spec.Maps[lbMapBackends].MaxEntries = limits.Backends + uint32(lbOwnerOWNER_FIRST)
	spec.Maps[lbMapRooms].MaxEntries = limits.Backends + uint32(lbOwnerOWNER_FIRST)
	spec.Maps[lbMapBackendRows].MaxEntries = rowsOf(limits.Backends + uint32(lbOwnerOWNER_FIRST))
}

// vipEntries is the most entries of one VIP table, a power of two. Each endpoint has a
// key of its own, and perhaps one each for its address, its fragments and its replies.
func vipEntries(limits Limits) uint32 {
	return max(undisplacedEntries, ceilPowerOfTwo(4*limits.Endpoints*100/fullest+1))
}

// portRanges is the most ranges of one VIP table: those of VIPs, and what is
// between them for one that takes any port.
func portRanges(limits Limits) uint32 { return 2 * limits.Endpoints }

func fragmentBuckets(limits Limits) uint32 {
	return ceilPowerOfTwo((limits.Fragments + flowsPerBucket - 1) / flowsPerBucket)
}

func flowBuckets(limits Limits) uint32 {
	return ceilPowerOfTwo((limits.Flows + flowsPerBucket - 1) / flowsPerBucket)
}

func slotLines(limits Limits) uint32 { return (limits.Slots + slotsPerLine - 1) / slotsPerLine }

func (p *Plane) mapMemories() error {
	var err error
	if p.control, err = mapMemory[lbControl](p.controlMap); err != nil {
		return err
	}
	if p.displacements, err = mapMemory[lbDisplacements](p.displacementsMap); err != nil {
		return err
	}
	if p.vips, err = mapMemory[lbVipEntry](p.maps.VipEntries); err != nil {
		return err
	}
	if p.pools, err = mapMemory[lbPool](p.maps.Pools); err != nil {
		return err
	}
	if p.slots, err = mapMemory[lbSlotLine](p.maps.Slots); err != nil {
		return err
	}
	if p.backends, err = mapMemory[lbBackend](p.maps.Backends); err != nil {
		return err
	}
	if p.rooms, err = mapMemory[lbRoom](p.maps.Rooms); err != nil {
		return err
	}
	if p.flows, err = mapMemory[lbFlowBucket](p.maps.Flows); err != nil {
		return err
	}
	if p.ranges, err = mapMemory[lbPortRange](p.maps.PortRanges); err != nil {
		return err
	}
	if p.terms, err = mapMemory[lbVipTerms](p.maps.Terms); err != nil {
		return err
	}
	if p.fragments, err = mapMemory[lbFlowBucket](p.maps.Fragments); err != nil {
		return err
	}
	if p.guards, err = mapMemory[lbGuard](p.maps.Guards); err != nil {
		return err
	}
	if p.vipCounters, err = mapRows(p.maps.VipRows); err != nil {
		return err
	}
	if p.backendCounters, err = mapRows(p.maps.BackendRows); err != nil {
		return err
	}
	if err := p.mapNATMemories(); err != nil {
		return err
	}
	p.ledger, err = mapMemory[lbLedgerPage](p.maps.Ledger)
	return err
}

func (p *Plane) mapNATMemories() error {
	var err error
	if p.endpoints, err = mapMemory[lbNatEndpoint](p.maps.NatEndpoints); err != nil {
		return err
	}
	if p.translations, err = mapMemory[lbTranslation](p.maps.Translations); err != nil {
		return err
	}
	if p.sessions, err = mapMemory[lbSessionBucket](p.maps.Sessions); err != nil {
		return err
	}
	if p.natPorts, err = mapMemory[lbNatPortsLine](p.maps.NatPorts); err != nil {
		return err
	}
	if p.natTimeouts, err = mapMemory[lbNatTimeout](p.maps.NatTimeouts); err != nil {
		return err
	}
	p.synGiven, err = mapMemory[uint64](p.maps.SynGiven)
	return err
}

// Close releases what the Plane holds. What is pinned goes on without it; all else
// is gone, and the program off the interfaces.
func (p *Plane) Close() error {
	errs := []error{p.closeLinks(0)}
	errs = append(errs,
		p.control.close(), p.displacements.close(), p.vips.close(), p.pools.close(), p.slots.close(), p.backends.close(), p.rooms.close(), p.flows.close(), p.ledger.close(),
		p.ranges.close(), p.terms.close(), p.fragments.close(), p.guards.close(), p.vipCounters.close(), p.backendCounters.close(),
		p.endpoints.close(), p.translations.close(), p.sessions.close(), p.natPorts.close(), p.natTimeouts.close(), p.synGiven.close(),
		p.maps.Close(), p.controlMap.Close(), p.displacementsMap.Close())
	errs = append(errs, p.program.Close())
	for _, part := range p.parts {
		errs = append(errs, part.Close())
	}
	errs = append(errs, closeMaps(p.former))
	if p.pin != nil {
		errs = append(errs, p.pin.close())
	}
	return errors.Join(errs...)
}

// Maps tells how full the maps are.
func (p *Plane) Maps() []model.MapUse {
	use := func(name string, m *ebpf.Map, used, capacity uint32) model.MapUse {
		bytes, ok := uint64(0), false
		if info, err := m.Info(); err == nil {
			bytes, ok = info.Memlock()
		}
		if !ok {
			bytes = uint64(m.MaxEntries()) * uint64(m.ValueSize())
		}
		return model.MapUse{Name: name, Used: uint64(used), Capacity: uint64(capacity), Bytes: bytes}
	}
	n := &p.numbers
	return []model.MapUse{
		use("vips", p.maps.VipEntries, n.vips.used, n.vips.size),
		use("vip_counters", p.maps.VipRows, n.vips.used, n.vips.size),
		use("pools", p.maps.Pools, n.pools.used, n.pools.size),
		use("slots", p.maps.Slots, n.lines.used*slotsPerLine, n.lines.size*slotsPerLine),
		use("flows", p.maps.Flows, uint32(p.stats.Live), flowBuckets(p.limits)*flowsPerBucket),
		use("translations", p.maps.Translations, uint32(p.stats.Translations), p.natSources.capacity()),
		use("sessions", p.maps.Sessions, uint32(p.stats.Translations), p.natSources.sessionBuckets()*8),
		use("backends", p.maps.Backends, n.backends.used, n.backends.size),
		use("backend_counters", p.maps.BackendRows, n.backends.used, n.backends.size),
	}
}

// Program is the packet path, for test runs. The Plane keeps ownership.
func (p *Plane) Program() *ebpf.Program { return p.program }

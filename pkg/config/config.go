// Package config reads the configuration of a node: what it attaches to, how
// large its maps are, where it listens and where it keeps its state. What the
// balancer balances is not in here; that is desired state (pkg/store).
//
// The file is YAML and read strictly: unknown keys, keys given twice, values of
// the wrong type and values out of range are all errors that show their place.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Bounds of the data plane's maps. The lower ones still run one small pool.
const (
	MaxVIPs      = 10000
	MaxEndpoints = 10000
	MaxPools     = 65535
	MaxBackends  = 1<<20 - 3
	MinSlots     = model.MinTableSize
	MaxSlots     = 1 << 28
	MinFlows     = 1024
	MaxFlows     = 1 << 28
	MinFragments = 1024
	MaxFragments = 1 << 24
	MinSplices   = 1024
	MaxSplices   = 1 << 24

	MaxSourceLists = 4096
	MinSources     = 1024
	MaxSources     = 1 << 24
)

// Bounds of encapsulation.
const (
	// MaxSourceBits is the most host bits of a source prefix: that many bits of
	// the flow hash fill them.
	MaxSourceBits = 16
	// MinMTU is what every IPv4 host must take (RFC 1122, section 3.3.2); over
	// IPv6 no path has less than 1280 bytes.
	MinMTU = 576
	MaxMTU = 65535
)

// Bounds of fullnat.
const (
	// MaxNATSourceBits is the most host bits of a prefix of SNAT addresses: memory
	// is taken for every port of every one.
	MaxNATSourceBits = 10
	// MinNATPorts is the fewest ports of an SNAT address.
	MinNATPorts = 64
)

// MaxICMPRate bounds the answers per second and CPU.
const MaxICMPRate = 1_000_000

// LogFormat is how log lines are written.
type LogFormat uint8

// The log formats.
const (
	LogText LogFormat = iota
	LogJSON
)

func (f LogFormat) String() string {
	switch f {
	case LogText:
		return "text"
	case LogJSON:
		return "json"
	}
	return fmt.Sprintf("format(%d)", uint8(f))
}

// Config is the configuration of one node.
type Config struct {
	// Interfaces that the program attaches to, each once, in the file's order.
	Interfaces []string
	XDPMode    model.XDPMode
	// HashSeed keys the flow hash and is shared by the whole fleet. All zero:
	// not given, the node makes one of its own.
	HashSeed      [16]byte
	Encapsulation Encapsulation
	NAT           NAT
	// ICMPRate is how many packet-too-big and time-exceeded messages each CPU sends
	// per second at most, 0 to [MaxICMPRate].
	ICMPRate uint32
	// Screening drops packets for VIPs that no host sends.
	Screening bool
	Limits    Limits
	API       API
	Metrics   Metrics
	// Store is the absolute path of the file that keeps desired state.
	Store string
	// PinPath is the absolute path of a directory in a bpffs, where programs and
	// maps outlive the daemon.
	PinPath string
	// DetachOnExit takes the program off the interfaces when the daemon ends.
	DetachOnExit bool
	// SweepShare bounds what sweeping the flow table may take, in percent of one
	// core, 1 to 100.
	SweepShare uint32
	Log        Log
}

// Encapsulation says what outer headers look like.
type Encapsulation struct {
	// SourceIPv4 and SourceIPv6 are prefixes whose host bits, [MaxSourceBits] at
	// most, come from the flow hash; a single address is one of full length. The
	// zero Prefix stands for the address that the route to the backend prefers.
	SourceIPv4, SourceIPv6 netip.Prefix
	// GUEPort is the UDP destination port of dsr-gue, in host byte order.
	GUEPort uint16
	// GUEChecksum: fill in the UDP checksum of outer headers.
	GUEChecksum bool
	// MTU bounds IP packets on the way to backends, outer headers included, in
	// bytes, [MinMTU] to [MaxMTU]; 0: that of the route.
	MTU uint16
}

// NAT says what fullnat puts in place of a client's address and port.
type NAT struct {
	// SourceIPv4 and SourceIPv6 are prefixes of [MaxNATSourceBits] host bits at most,
	// of which every address is used; a single address is one of full length. The zero
	// Prefix: backends of that family cannot be reached under fullnat.
	SourceIPv4, SourceIPv6 netip.Prefix
	// Ports that are used of each address, [MinNATPorts] at least, never any.
	Ports model.PortRange
}

// Limits are the sizes of the data plane's maps, in entries.
type Limits struct {
	VIPs, Pools, Backends uint32
	// Endpoints of all VIPs together; a range of ports is one.
	Endpoints uint32
	// Slots of all pools together.
	Slots uint32
	// Flows that the flow table has room for, a power of two.
	Flows uint32
	// Fragments is how many packets in fragments are followed at the same time, a
	// power of two.
	Fragments uint32
	// Splices are how many connections that began with a SYN cookie are remembered.
	Splices uint32
	// SourceLists that VIPs use.
	SourceLists uint32
	// Sources that limits follow at the same time, a power of two.
	Sources uint32
}

// API is where the daemon serves its API.
type API struct {
	// Socket is the absolute path of the Unix socket, made with mode 0660.
	Socket string
	// Group that owns the socket; empty: the daemon's own.
	Group string
}

// Metrics is where Prometheus scrapes.
type Metrics struct {
	// Listen is an IP address and a port; empty turns metrics off.
	Listen string
}

// Log says what is logged, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Encapsulation: Encapsulation{GUEPort: 6080},
		NAT:           NAT{Ports: model.PortRange{First: 1024, Last: math.MaxUint16}},
		ICMPRate:      1000,
		Screening:     true,
		Limits:        Limits{VIPs: 1024, Endpoints: 2048, Pools: 64, Backends: 4096, Slots: 64 * 65552, Flows: 1 << 20, Fragments: 1 << 14, Splices: 1 << 16, SourceLists: 64, Sources: 1 << 16},
		API:           API{Socket: "/run/steelyard/api.sock"},
		Metrics:       Metrics{Listen: "127.0.0.1:9464"},
		Store:         "/var/lib/steelyard/state.db",
		PinPath:       "/sys/fs/bpf/steelyard",
		SweepShare:    5,
	}
}

// Load reads a configuration file; keys that it leaves out keep their defaults.
// Its errors are those of the file system and of [Parse].
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a configuration; name stands for the file in errors. It reports
// all that is wrong: the error joins one [*Error] for each fault.
func Parse(name string, data []byte) (Config, error) {
	root, err := parseYAML(name, data)
	if err != nil {
		return Config{}, err
	}
	c := Default()
	if root == nil {
		return c, nil
	}
	r := &reader{file: name}
	r.config(root, &c)
	if len(r.faults) > 0 {
		return Config{}, errors.Join(r.faults...)
	}
	return c, nil
}

// AddInterfaces adds interfaces named outside the file, such as by flags, to
// those of the file, and makes sure that there is at least one in all.
func (c *Config) AddInterfaces(names ...string) error {
	all := slices.Clone(c.Interfaces)
	for _, name := range names {
		if err := checkInterface(name); err != nil {
			return fmt.Errorf("interface: %w", err)
		}
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return errors.New("no interface to attach to: name at least one, under interfaces: in the configuration or with --interface")
	}
	c.Interfaces = all
	return nil
}

// config maps the file's keys to their places.
func (r *reader) config(root node, c *Config) {
	r.mapping(root, "", keys{
		"interfaces": r.list(&c.Interfaces, checkInterface),
		"xdp_mode":   oneOf(r, &c.XDPMode, model.XDPAuto, model.XDPNative, model.XDPGeneric),
		"hash_seed":  r.text(setSeed(&c.HashSeed)),
		"encapsulation": r.section(keys{
			"source_ipv4":  r.text(setSource(&c.Encapsulation.SourceIPv4, ipv4, MaxSourceBits)),
			"source_ipv6":  r.text(setSource(&c.Encapsulation.SourceIPv6, ipv6, MaxSourceBits)),
			"gue_port":     number(r, &c.Encapsulation.GUEPort, 1, math.MaxUint16),
			"gue_checksum": r.truth(&c.Encapsulation.GUEChecksum),
			"mtu":          zeroOr(r, &c.Encapsulation.MTU, MinMTU, MaxMTU),
		}),
		"nat": r.section(keys{
			"source_ipv4": r.text(setSource(&c.NAT.SourceIPv4, ipv4, MaxNATSourceBits)),
			"source_ipv6": r.text(setSource(&c.NAT.SourceIPv6, ipv6, MaxNATSourceBits)),
			"ports":       r.text(setPorts(&c.NAT.Ports)),
		}),
		"icmp_rate": number(r, &c.ICMPRate, 0, MaxICMPRate),
		"screening": r.truth(&c.Screening),
		"limits": r.section(keys{
			"vips":      number(r, &c.Limits.VIPs, 1, MaxVIPs),
			"endpoints": number(r, &c.Limits.Endpoints, 1, MaxEndpoints),
			"pools":     number(r, &c.Limits.Pools, 1, MaxPools),
			"backends":  number(r, &c.Limits.Backends, 1, MaxBackends),
			"slots":     number(r, &c.Limits.Slots, MinSlots, MaxSlots),
			"flows":     powerOfTwo(r, &c.Limits.Flows, MinFlows, MaxFlows),
			"fragments": powerOfTwo(r, &c.Limits.Fragments, MinFragments, MaxFragments),
			"splices":   number(r, &c.Limits.Splices, MinSplices, MaxSplices),

			"source_lists": number(r, &c.Limits.SourceLists, 1, MaxSourceLists),
			"sources":      powerOfTwo(r, &c.Limits.Sources, MinSources, MaxSources),
		}),
		"api": r.section(keys{
			"socket": r.text(setSocket(&c.API.Socket)),
			"group":  r.text(setAny(&c.API.Group)),
		}),
		"metrics": r.section(keys{
			"listen": r.text(setListen(&c.Metrics.Listen)),
		}),
		"store":          r.text(setPath(&c.Store)),
		"pin_path":       r.text(setPath(&c.PinPath)),
		"detach_on_exit": r.truth(&c.DetachOnExit),
		"sweep_share":    number(r, &c.SweepShare, 1, 100),
		"log": r.section(keys{
			"level":  r.text(setLevel(&c.Log.Level)),
			"format": oneOf(r, &c.Log.Format, LogText, LogJSON),
		}),
	})
}

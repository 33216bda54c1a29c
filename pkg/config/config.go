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
	"net/netip"
	"os"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Bounds of the data plane's maps. The lower ones still run one small pool.
const (
	MaxVIPs     = 10000
	MaxPools    = 65535
	MaxBackends = 1<<20 - 2
	MinSlots    = model.MinTableSize
	MaxSlots    = 1 << 28
	MinFlows    = 1024
	MaxFlows    = 1 << 28
)

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
	Limits        Limits
	API           API
	Metrics       Metrics
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

// Encapsulation holds the outer source addresses; the zero Addr stands for the
// address that the route to the backend prefers.
type Encapsulation struct {
	SourceIPv4, SourceIPv6 netip.Addr
}

// Limits are the sizes of the data plane's maps, in entries.
type Limits struct {
	VIPs, Pools, Backends uint32
	// Slots of all pools together.
	Slots uint32
	// Flows that the flow table has room for, a power of two.
	Flows uint32
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
		Limits:     Limits{VIPs: 1024, Pools: 64, Backends: 4096, Slots: 64 * 65552, Flows: 1 << 20},
		API:        API{Socket: "/run/steelyard/api.sock"},
		Metrics:    Metrics{Listen: "127.0.0.1:9464"},
		Store:      "/var/lib/steelyard/state.db",
		PinPath:    "/sys/fs/bpf/steelyard",
		SweepShare: 5,
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
			"source_ipv4": r.text(setSource(&c.Encapsulation.SourceIPv4, netip.Addr.Is4, "IPv4")),
			"source_ipv6": r.text(setSource(&c.Encapsulation.SourceIPv6, netip.Addr.Is6, "IPv6")),
		}),
		"limits": r.section(keys{
			"vips":     r.number(&c.Limits.VIPs, 1, MaxVIPs),
			"pools":    r.number(&c.Limits.Pools, 1, MaxPools),
			"backends": r.number(&c.Limits.Backends, 1, MaxBackends),
			"slots":    r.number(&c.Limits.Slots, MinSlots, MaxSlots),
			"flows":    r.powerOfTwo(&c.Limits.Flows, MinFlows, MaxFlows),
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
		"sweep_share":    r.number(&c.SweepShare, 1, 100),
		"log": r.section(keys{
			"level":  r.text(setLevel(&c.Log.Level)),
			"format": oneOf(r, &c.Log.Format, LogText, LogJSON),
		}),
	})
}

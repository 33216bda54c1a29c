package cli

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"runtime"

	"github.com/spf13/cobra"
)

// DaemonOptions are the flags of `steelyard daemon`. What is empty is as the
// configuration says.
type DaemonOptions struct {
	// Config is the configuration file. It may be missing unless ConfigRequired:
	// the operator named it.
	Config         string
	ConfigRequired bool
	// Interfaces come on top of those of the configuration.
	Interfaces []string
	// XDPMode is "auto", "native" or "generic".
	XDPMode       string
	Socket, Store string
	// DetachOnExit: take the program off the interfaces at the end.
	DetachOnExit bool
}

// DefaultConfig is the configuration file that the daemon reads if it is there.
const DefaultConfig = "/etc/steelyard/steelyard.yaml"

func newDaemon(a *app) *cobra.Command {
	var o DaemonOptions
	cmd := verb("daemon [--interface NAME ...] [--config FILE]", "Balance: run the daemon in the foreground", 0, 0, func(cmd *cobra.Command, _ []string) error {
		if err := checkXDPMode(o.XDPMode); err != nil {
			return err
		}
		o.ConfigRequired = cmd.Flags().Changed("config")
		o.Socket = a.socketGiven()
		return a.Daemon(cmd.Context(), o)
	})
	cmd.Long = fmt.Sprintf(`Run the daemon until SIGTERM or SIGINT. It attaches an XDP program to the
interfaces that packets for VIPs arrive on, checks backends, and serves the API that
all other commands use. It needs root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and
CAP_PERFMON.

Configuration comes from %s if that is there; flags take precedence.
VIPs, pools and backends are kept in the store and survive restarts.`, DefaultConfig)
	cmd.Example = `  steelyard daemon --interface eth1
  steelyard daemon --config ./steelyard.yaml`
	flags := cmd.Flags()
	flags.StringVar(&o.Config, "config", DefaultConfig, "configuration `file`")
	flags.StringSliceVarP(&o.Interfaces, "interface", "i", nil, "attach to this interface, besides those of the configuration; repeat for more")
	flags.StringVar(&o.Store, "store", "", "`file` that keeps the desired state")
	flags.BoolVar(&o.DetachOnExit, "detach-on-exit", false, "take the program off the interfaces at the end, and break connections; else traffic goes on until a daemon takes over")
	registerXDPMode(cmd, &o.XDPMode)
	return cmd
}

func registerXDPMode(cmd *cobra.Command, mode *string) {
	cmd.Flags().StringVar(mode, "xdp-mode", "", "native (in the driver), generic (slower, works everywhere) or auto (native where possible)")
	completeFlag(cmd, "xdp-mode", "auto", "native", "generic")
}

func checkXDPMode(mode string) error {
	switch mode {
	case "", "auto", "native", "generic":
		return nil
	}
	return invalid("unknown XDP mode %q; want auto, native or generic", mode)
}

// BackendOptions are the flags of `steelyard backend --vip ...`.
type BackendOptions struct {
	VIPs []netip.Addr
	// Balancers are where encapsulated packets are taken from.
	Balancers []netip.Prefix
	// Interfaces that packets for the VIPs arrive on.
	Interfaces []string
	// Decap: take packets out of IPIP and GUE, rather than leave that to the kernel.
	Decap bool
	// GUEPort is the UDP port of GUE, 0: none.
	GUEPort uint16
	// XDPMode is "", "auto", "native" or "generic".
	XDPMode string
}

// defaultGUEPort is the port that IANA gave to GUE.
const defaultGUEPort = 6080

// addBackendHost makes the noun a command too: with --vip, it prepares the host.
func addBackendHost(a *app, cmd *cobra.Command) {
	var vips, balancers, interfaces []string
	var noDecap bool
	var guePort uint
	var mode string
	cmd.Use = "backend"
	cmd.Long = `Change and show the backends of pools, with the verbs below.

Without a verb but with --vip, prepare this host to be a backend, until SIGTERM or
SIGINT: put the VIPs' addresses on it, keep it from answering ARP for them, and take
packets that balancers have encapsulated (dsr-ipip, dsr-gue) out again. It says what
it changes and undoes it at the end.`
	cmd.Example = `  # On the balancer:
  steelyard backend drain web 10.0.1.10

  # On a backend:
  steelyard backend --vip 192.0.2.10 --balancer 10.0.1.1 --interface eth0`
	flags := cmd.Flags()
	flags.StringSliceVar(&vips, "vip", nil, "`address` of a VIP to take; repeat for more")
	flags.StringSliceVar(&balancers, "balancer", nil, "`address` or prefix that encapsulated packets are taken from; repeat for more")
	flags.StringSliceVarP(&interfaces, "interface", "i", nil, "interface that packets arrive on; repeat for more")
	flags.BoolVar(&noDecap, "no-decap", false, "take no packets out: the mode is dsr-l2, or the kernel's tunnels do it")
	flags.UintVar(&guePort, "gue-port", defaultGUEPort, "UDP `port` of GUE (dsr-gue), the balancers' gue_port; 0: leave GUE to the kernel")
	registerXDPMode(cmd, &mode)
	verbs := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 || !anyGiven(cmd) {
			return verbs(cmd, args)
		}
		o := BackendOptions{Interfaces: interfaces, Decap: !noDecap, GUEPort: uint16(guePort), XDPMode: mode}
		switch {
		case len(vips) == 0:
			return usage(cmd, "say which addresses to take: --vip ADDRESS")
		case o.Decap && len(balancers) == 0:
			return usage(cmd, "say whose packets to take out of the tunnel: --balancer ADDRESS (or --no-decap)")
		case len(interfaces) == 0:
			return usage(cmd, "say where packets for the VIPs arrive: --interface NAME")
		case guePort > math.MaxUint16:
			return invalid("--gue-port %d is no port; want 1 to 65535, or 0 to leave GUE to the kernel", guePort)
		}
		if err := o.parse(vips, balancers); err != nil {
			return err
		}
		return a.Backend(cmd.Context(), o)
	}
}

func (o *BackendOptions) parse(vips, balancers []string) error {
	for _, s := range vips {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return invalid("--vip %q is not an address", s)
		}
		o.VIPs = append(o.VIPs, addr)
	}
	for _, s := range balancers {
		prefix, err := netip.ParsePrefix(s)
		if addr, bare := netip.ParseAddr(s); bare == nil {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return invalid("--balancer %q is neither an address nor a prefix, such as 10.0.1.1 or 10.0.1.0/28", s)
		}
		if prefix != prefix.Masked() {
			return invalid("--balancer %s has bits behind its length; write %s, or %s for the one address", s, prefix.Masked(), prefix.Addr())
		}
		o.Balancers = append(o.Balancers, prefix)
	}
	return checkXDPMode(o.XDPMode)
}

func newVersion(a *app) *cobra.Command {
	return verb("version", "Print the version of this program", 0, 0, func(*cobra.Command, []string) error {
		view := struct {
			Version   string `json:"version"`
			GoVersion string `json:"go_version"`
			Platform  string `json:"platform"`
		}{a.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		return a.print(view, func(w io.Writer) {
			fmt.Fprintf(w, "steelyard %s (%s, %s)\n", view.Version, view.GoVersion, view.Platform)
		})
	})
}

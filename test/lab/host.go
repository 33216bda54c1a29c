package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one namespace of a lab.
type Host struct {
	// Name is the host's name in the lab, such as "backend1".
	Name string
	// NetNS is the name that `ip netns` shows, such as "steelyard-backend1".
	NetNS string
	// V4 and V6 are its addresses: of the client towards the router, of all
	// others at the switch. The switch itself has none.
	V4, V6 netip.Addr

	lab      *Lab
	ns       *os.File
	captures atomic.Uint32 // how many there were: their logs are numbered
}

func (l *Lab) host(name string, v4, v6 netip.Addr) *Host {
	return &Host{Name: name, NetNS: l.Name + "-" + name, V4: v4, V6: v6, lab: l}
}

// Dir is a directory for the host's files; it goes with the lab.
func (h *Host) Dir() string { return filepath.Join(h.lab.dir, h.Name) }

// path is the file that holds the namespace.
func (h *Host) path() string { return filepath.Join("/run/netns", h.NetNS) }

func (h *Host) open() error {
	ns, err := os.Open(h.path())
	if err != nil {
		return fmt.Errorf("open the namespace of %s: %w", h.Name, err)
	}
	h.ns = ns
	return nil
}

func (h *Host) close() error {
	if h.ns == nil {
		return nil
	}
	err := h.ns.Close()
	h.ns = nil
	return err
}

// enterArgs is how many words of a command line enter the namespace.
const enterArgs = 3

// Command returns a command that will run on the host, without starting it. It
// enters the network namespace only: files, BPF file systems included, are
// those of the caller, which `ip netns exec` would hide.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + h.path(), "--", name}, args...)...)
	// nginx and ethtool are where the PATH of an ordinary user, which sudo may
	// have kept, does not look.
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// Run runs a command on the host and returns its standard output; what it said
// on standard error is part of the error.
func (h *Host) Run(name string, args ...string) (string, error) {
	cmd := h.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("on %s: %s %s: %w: %s", h.Name, name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Do calls f on a thread that is inside of the host's namespace: sockets and
// netlink handles that f makes belong to the host, for as long as they live.
// Goroutines that f starts do not run inside.
func (h *Host) Do(f func() error) (err error) {
	if h.ns == nil {
		return fmt.Errorf("on %s: the lab is closed", h.Name)
	}
	runtime.LockOSThread()
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the namespace of %s: %w", h.Name, err)
	}
	defer func() {
		if back := unix.Setns(int(h.lab.home.Fd()), unix.CLONE_NEWNET); back != nil {
			// The thread stays locked, so it ends with its goroutine and
			// nobody else runs in the wrong namespace.
			err = errors.Join(err, fmt.Errorf("leave the namespace of %s: %w", h.Name, back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// Dial connects from the host to an address with a port, such as "10.0.0.11:80";
// network is "tcp" or "udp". A valid source is the address to connect from.
// The connection may be used from any goroutine.
func (h *Host) Dial(ctx context.Context, network, address string, source netip.Addr) (net.Conn, error) {
	// Only with literal addresses does all of a dial happen on this thread.
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("on %s: dial %q: %w", h.Name, address, err)
	}
	var d net.Dialer
	if source.IsValid() {
		switch network {
		case "tcp":
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		case "udp":
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		default:
			return nil, fmt.Errorf("on %s: dial: network %q: want tcp or udp", h.Name, network)
		}
	}
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Sysctl sets kernel settings of the host's network, each as
// "net/ipv4/ip_forward=1".
func (h *Host) Sysctl(settings ...string) error {
	return h.Do(func() error {
		for _, setting := range settings {
			key, value, _ := strings.Cut(setting, "=")
			if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
				return fmt.Errorf("on %s: set %s: %w", h.Name, setting, err)
			}
		}
		return nil
	})
}

// devices lists the host's veth devices.
func (h *Host) devices() ([]netlink.Link, error) {
	var veths []netlink.Link
	err := h.Do(func() error {
		links, err := netlink.LinkList()
		// Changes while the kernel was listing are no news: devices come up.
		for errors.Is(err, netlink.ErrDumpInterrupted) {
			links, err = netlink.LinkList()
		}
		if err != nil {
			return fmt.Errorf("on %s: list devices: %w", h.Name, err)
		}
		for _, link := range links {
			if link.Type() == "veth" {
				veths = append(veths, link)
			}
		}
		return nil
	})
	return veths, err
}

// PlainDSR makes the host a backend of VIPs in mode dsr-l2 by hand: the VIPs'
// addresses on lo, and no answers to ARP for them. (IPv6 neighbour discovery
// never answers for addresses of another interface.)
func (h *Host) PlainDSR(vips ...netip.Addr) error {
	if err := h.Sysctl("net/ipv4/conf/all/arp_ignore=1", "net/ipv4/conf/all/arp_announce=2"); err != nil {
		return err
	}
	var batch []string
	for _, vip := range vips {
		nodad := ""
		if vip.Is6() {
			nodad = " nodad"
		}
		batch = append(batch, fmt.Sprintf("address add %s/%d dev lo%s", vip, vip.BitLen(), nodad))
	}
	return ipBatch(h, batch)
}

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// Options say what a backend host serves.
type Options struct {
	// VIPs are the addresses to serve, of either family.
	VIPs []netip.Addr
	// Balancers are the sources from which IP in IP and GUE are accepted. Decap
	// needs them, nothing else does.
	Balancers []netip.Prefix
	// Interfaces are those that the VIPs' packets arrive on.
	Interfaces []string
	// Decap attaches the decapsulation program to Interfaces, in the way that
	// Mode says. Without it, dsr-l2 works, and the others with the kernel's tunnels.
	Decap bool
	Mode  model.XDPMode
	// GUEPort is the UDP port that GUE is decapsulated on besides IP in IP; 0: none.
	GUEPort uint16
	// Say tells the operator one line: what is changed, undone, left or wrong.
	Say func(format string, args ...any)
}

// host is a backend host while it is one.
type host struct {
	Options
	*netlink.Handle
	links []netlink.Link
	// undo holds what takes back each change, in the order of the changes.
	undo []func() error
}

// Run makes the host a backend, calls ready, waits for the end of ctx and undoes
// what it did; on error, at once. It works on the network namespace of the calling
// thread, starts no goroutines, and calls Say and ready from the calling one. It
// needs CAP_NET_ADMIN, and with Decap CAP_BPF and CAP_PERFMON and Linux 6.1.
func Run(ctx context.Context, o Options, ready func()) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	h := &host{Options: o, Handle: handle}
	defer func() { err = errors.Join(err, h.undoAll()) }()
	if err := h.setUp(); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// setUp changes nothing before the likely errors have had their chance. Then ARP
// is quiet before there is an address to answer for, and decapsulated packets
// find their address from the first one on.
func (h *host) setUp() error {
	if err := h.findLinks(); err != nil {
		return err
	}
	missing, err := h.missingVIPs()
	if err != nil {
		return err
	}
	var d *decapsulator
	if h.Decap {
		if d, err = loadDecapsulator(&h.Options); err != nil {
			return err
		}
		h.onUndo(d.close)
	}
	if err := h.quietenARP(); err != nil {
		return err
	}
	if err := h.addVIPs(missing); err != nil {
		return err
	}
	if d == nil {
		return nil
	}
	if err := h.attach(d); err != nil {
		return err
	}
	return h.adviseSegments()
}

func (h *host) findLinks() error {
	for _, name := range h.Interfaces {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("no interface %q here (%w); 'ip link' lists those there are", name, err)
		}
		h.links = append(h.links, link)
	}
	return nil
}

func (h *host) onUndo(f func() error) { h.undo = append(h.undo, f) }

// undoAll takes back everything that it can, the last change first.
func (h *host) undoAll() error {
	var errs []error
	for i := len(h.undo) - 1; i >= 0; i-- {
		errs = append(errs, h.undo[i]())
	}
	return errors.Join(errs...)
}

// hasIPv4 reports whether some VIP is one that ARP could be asked for.
func (o *Options) hasIPv4() bool {
	for _, vip := range o.VIPs {
		if vip.Is4() {
			return true
		}
	}
	return false
}

// explain adds to what the kernel answers what the operator can do about it.
func explain(err error) error {
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w; inside a container, whoever starts it must set this", err)
	}
	return xdp.Explain(err)
}

func join[T fmt.Stringer](values []T) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}

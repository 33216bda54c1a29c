package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// decapsulator is the decapsulation program in the kernel with its maps.
type decapsulator struct {
	objects decapObjects
	// reasons are the names of its ways out, by index.
	reasons []string
}

// loadDecapsulator loads the program, attached to nothing yet. The caller closes it.
func loadDecapsulator(vips []netip.Addr, balancers []netip.Prefix) (*decapsulator, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory: %w", explain(err))
	}
	spec, err := loadDecap()
	if err != nil {
		return nil, err
	}
	d := &decapsulator{}
	if d.reasons, err = reasonNames(spec); err != nil {
		return nil, err
	}
	spec.Maps[decapMapLocalVips].MaxEntries = uint32(len(vips))
	spec.Maps[decapMapBalancers].MaxEntries = uint32(len(balancers))
	if err := spec.LoadAndAssign(&d.objects, nil); err != nil {
		return nil, fmt.Errorf("load the decapsulation program: %w", explainLoad(err))
	}
	if err := d.fill(vips, balancers); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *decapsulator) fill(vips []netip.Addr, balancers []netip.Prefix) error {
	for _, vip := range vips {
		if err := d.objects.LocalVips.Put(address(vip), uint32(0)); err != nil {
			return fmt.Errorf("VIP %s: %w", vip, explain(err))
		}
	}
	for _, p := range balancers {
		if err := d.objects.Balancers.Put(prefix(p), uint32(0)); err != nil {
			return fmt.Errorf("balancer %s: %w", p, explain(err))
		}
	}
	return nil
}

func explainLoad(err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) || errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w; this kernel lacks a feature that it needs: Linux 5.18 or later, with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT; --no-decap does without, if the kernel's own tunnels decapsulate", err)
	}
	return explain(err)
}

// address is an address as the program holds it: IPv4 mapped into IPv6, the
// bytes on the wire read as little-endian words.
func address(a netip.Addr) decapAddress {
	b := a.As16()
	return decapAddress{Word: [2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}}
}

// prefix is a prefix of such addresses, which has 96 bits before those of IPv4.
func prefix(p netip.Prefix) decapPrefix {
	bits := p.Bits() + 128 - p.Addr().BitLen()
	return decapPrefix{Length: uint32(bits), Address: p.Masked().Addr().As16()}
}

// reasonNames reads the names of every way out of the program from its BTF.
func reasonNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var reasons *btf.Enum
	if err := spec.Types.TypeByName("decap_reason", &reasons); err != nil {
		return nil, fmt.Errorf("reasons: %w", err)
	}
	names := make([]string, decapDecapReasonDECAP_REASONS)
	for _, v := range reasons.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = strings.ToLower(v.Name)
		}
	}
	return names, nil
}

// counts reads how many packets left the program in each way.
func (d *decapsulator) counts() ([]model.Reason, error) {
	out := make([]model.Reason, len(d.reasons))
	for i, name := range d.reasons {
		var perCPU []uint64
		if err := d.objects.DecapReasons.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("count of %s: %w", name, err)
		}
		out[i].Name = name
		for _, n := range perCPU {
			out[i].Packets += n
		}
	}
	return out, nil
}

func (d *decapsulator) close() error { return d.objects.Close() }

// attach attaches the program to all interfaces. Its counts are told at the end.
func (h *host) attach(d *decapsulator) error {
	for _, on := range h.links {
		if err := h.attachTo(d, on); err != nil {
			return fmt.Errorf("attach the decapsulation program to %s: %w", on.Attrs().Name, err)
		}
	}
	h.Say("decapsulating what %s send for %s", join(h.Balancers), join(h.VIPs))
	h.onUndo(func() error { return h.report(d) })
	return nil
}

func (h *host) attachTo(d *decapsulator, on netlink.Link) error {
	name := on.Attrs().Name
	l, mode, err := h.attachBest(d, on)
	if err != nil {
		return err
	}
	h.Say("decapsulation program attached to %s, %s mode", name, mode)
	h.onUndo(func() error {
		if err := l.Close(); err != nil {
			return fmt.Errorf("detach the decapsulation program from %s: %w", name, err)
		}
		h.Say("decapsulation program detached from %s", name)
		return nil
	})
	return nil
}

// attachBest attaches as Mode says and tells which way it was.
func (h *host) attachBest(d *decapsulator, on netlink.Link) (l link.Link, mode string, err error) {
	if h.Mode != model.XDPGeneric {
		l, err = d.attachAs(on, link.XDPDriverMode)
		if err == nil || h.Mode == model.XDPNative || !mayBeDriver(err) {
			return l, "native", err
		}
		h.Say("warning: the driver of %s cannot run XDP natively (%v): generic mode is several times slower", on.Attrs().Name, err)
	}
	l, err = d.attachAs(on, link.XDPGenericMode)
	return l, "generic", err
}

// mayBeDriver reports whether generic mode may succeed where native mode failed.
func mayBeDriver(err error) bool {
	return !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EPERM)
}

func (d *decapsulator) attachAs(on netlink.Link, flags link.XDPAttachFlags) (link.Link, error) {
	l, err := link.AttachXDP(link.XDPOptions{
		Program: d.objects.SteelyardDecap, Interface: on.Attrs().Index, Flags: flags,
	})
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("another XDP program is on it (%w); 'ip link show dev %[2]s' names it, 'ip link set dev %[2]s xdp off' takes it off unless a link of its owner holds it", err, on.Attrs().Name)
	}
	if err != nil {
		return nil, explain(err)
	}
	return l, nil
}

// report says what became of the packets that the program saw.
func (h *host) report(d *decapsulator) error {
	counts, err := d.counts()
	if err != nil {
		return err
	}
	decapsulated, others := uint64(0), ""
	for i, c := range counts {
		switch {
		case decapDecapReason(i) == decapDecapReasonPASS_DECAPSULATED:
			decapsulated = c.Packets
		case c.Packets > 0:
			others += fmt.Sprintf(", %s %d", c.Name, c.Packets)
		}
	}
	h.Say("decapsulated %d packets%s", decapsulated, others)
	return nil
}

package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// decapsulator is the decapsulation program in the kernel with its maps.
type decapsulator struct {
	objects decapObjects
	// reasons are the names of its ways out, by index.
	reasons []string
}

// loadDecapsulator loads the program, attached to nothing yet. The caller closes it.
func loadDecapsulator(o *Options) (*decapsulator, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory: %w", xdp.Explain(err))
	}
	spec, err := loadDecap()
	if err != nil {
		return nil, err
	}
	d := &decapsulator{}
	if d.reasons, err = xdp.ReasonNames(spec, "decap_reason", int(decapDecapReasonDECAP_REASONS)); err != nil {
		return nil, err
	}
	spec.Maps[decapMapLocalVips].MaxEntries = uint32(len(o.VIPs))
	spec.Maps[decapMapBalancers].MaxEntries = uint32(len(o.Balancers))
	if err := spec.Variables[decapVarGuePort].Set(binary.BigEndian.AppendUint16(nil, o.GUEPort)); err != nil {
		return nil, fmt.Errorf("GUE port: %w", err)
	}
	if err := spec.LoadAndAssign(&d.objects, nil); err != nil {
		return nil, fmt.Errorf("load the decapsulation program: %w", explainLoad(err))
	}
	if err := d.fill(o.VIPs, o.Balancers); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *decapsulator) fill(vips []netip.Addr, balancers []netip.Prefix) error {
	for _, vip := range vips {
		if err := d.objects.LocalVips.Put(decapAddress{Word: xdp.Words(vip)}, uint32(0)); err != nil {
			return fmt.Errorf("VIP %s: %w", vip, xdp.Explain(err))
		}
	}
	for _, p := range balancers {
		if err := d.objects.Balancers.Put(prefix(p), uint32(0)); err != nil {
			return fmt.Errorf("balancer %s: %w", p, xdp.Explain(err))
		}
	}
	return nil
}

// explainLoad adds the way out where the kernel cannot load the program.
func explainLoad(err error) error {
	err = xdp.Explain(err)
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) || errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w; --no-decap does without, if the kernel's own tunnels decapsulate", err)
	}
	return err
}

// prefix is a prefix of such addresses, which has 96 bits before those of IPv4.
func prefix(p netip.Prefix) decapPrefix {
	bits := p.Bits() + 128 - p.Addr().BitLen()
	return decapPrefix{Length: uint32(bits), Address: p.Masked().Addr().As16()}
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
	h.Say("decapsulating %s that %s send for %s", h.tunnels(), join(h.Balancers), join(h.VIPs))
	h.onUndo(func() error { return h.report(d) })
	return nil
}

// tunnels says what is decapsulated.
func (o *Options) tunnels() string {
	if o.GUEPort == 0 {
		return "IP in IP"
	}
	return fmt.Sprintf("IP in IP and GUE to UDP port %d", o.GUEPort)
}

func (h *host) attachTo(d *decapsulator, on netlink.Link) error {
	name := on.Attrs().Name
	a, err := xdp.Attach(d.objects.SteelyardDecap, name, on.Attrs().Index, h.Mode)
	if err != nil {
		return err
	}
	h.Say("decapsulation program attached to %s, %s mode", name, a.Mode)
	if a.Warning != "" {
		h.Say("warning: %s: %s", name, a.Warning)
	}
	h.onUndo(func() error {
		if err := a.Close(); err != nil {
			return fmt.Errorf("detach the decapsulation program from %s: %w", name, err)
		}
		h.Say("decapsulation program detached from %s", name)
		return nil
	})
	return nil
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

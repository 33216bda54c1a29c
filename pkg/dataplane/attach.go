package dataplane

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// XDPMode says where in the kernel the program runs.
type XDPMode int

// The modes of attachment.
const (
	// XDPAuto is native, or generic where the driver cannot.
	XDPAuto XDPMode = iota
	// XDPNative runs in the driver, before the kernel allocates anything.
	XDPNative
	// XDPGeneric runs in the kernel's receive path, on any interface, slower.
	XDPGeneric
)

type attachment struct {
	name string
	link link.Link
	mode string
	warn string
}

// Attach attaches the program to interfaces, to all or, on error, to none. It
// refuses an interface that another XDP program is on.
func (p *Plane) Attach(mode XDPMode, interfaces ...string) error {
	before := len(p.attached)
	for _, name := range interfaces {
		a, err := p.attach(name, mode)
		if err != nil {
			return errors.Join(fmt.Errorf("attach to %s: %w", name, err), p.detachFrom(before))
		}
		p.attached = append(p.attached, a)
	}
	return nil
}

func (p *Plane) attach(name string, mode XDPMode) (attachment, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return attachment{}, fmt.Errorf("no such interface; 'ip link' lists those there are")
	}
	if mode == XDPGeneric {
		return p.attachAs(iface, link.XDPGenericMode, "")
	}
	a, err := p.attachAs(iface, link.XDPDriverMode, "")
	if err == nil || mode == XDPNative || !mayBeDriver(err) {
		return a, err
	}
	return p.attachAs(iface, link.XDPGenericMode,
		fmt.Sprintf("the driver cannot run XDP natively (%v): generic mode is several times slower", err))
}

// mayBeDriver reports whether generic mode may succeed where native mode failed.
func mayBeDriver(err error) bool {
	return !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EPERM)
}

func (p *Plane) attachAs(iface *net.Interface, flags link.XDPAttachFlags, warning string) (attachment, error) {
	l, err := link.AttachXDP(link.XDPOptions{Program: p.program, Interface: iface.Index, Flags: flags})
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return attachment{}, fmt.Errorf("another XDP program is on it (%w); 'ip link show dev %[2]s' names it, 'ip link set dev %[2]s xdp off' takes it off unless a link of its owner holds it", err, iface.Name)
	case err != nil:
		return attachment{}, explain(err)
	}
	a := attachment{name: iface.Name, link: l, mode: "native", warn: warning}
	if flags == link.XDPGenericMode {
		a.mode = "generic"
	}
	return a, nil
}

// Detach takes the program off all interfaces.
func (p *Plane) Detach() error { return p.detachFrom(0) }

func (p *Plane) detachFrom(first int) error {
	var errs []error
	for _, a := range p.attached[first:] {
		errs = append(errs, a.link.Close())
	}
	p.attached = p.attached[:first]
	return errors.Join(errs...)
}

// Interfaces tells how the program is attached.
func (p *Plane) Interfaces() []model.InterfaceStatus {
	out := make([]model.InterfaceStatus, len(p.attached))
	for i, a := range p.attached {
		out[i] = model.InterfaceStatus{Name: a.name, Mode: a.mode, Warning: a.warn}
	}
	return out
}

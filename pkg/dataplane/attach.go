package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/cilium/ebpf/link"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

type attachment struct {
	name string
	link link.Link
	mode string
	warn string
	// fresh: this Plane pinned it.
	fresh bool
}

// Attach attaches the program to these interfaces and to no others. Where a former
// daemon's program is attached it is replaced in one step, and no packet is missed.
// It refuses an interface that somebody else's program is on. On error nothing is
// attached that was not before.
func (p *Plane) Attach(mode model.XDPMode, interfaces ...string) error {
	if p.former != nil {
		if err := p.pin.promote(); err != nil {
			return err
		}
		// What has come since the maps were filled, so that little is left for the moment
		// when the program has been replaced.
		if err := p.carryConnections(); err != nil {
			return err
		}
	}
	before := len(p.attached)
	for _, name := range interfaces {
		a, err := p.attach(name, mode)
		if err != nil {
			return errors.Join(fmt.Errorf("attach to %s: %w", name, err), p.takeBack(before))
		}
		p.attached = append(p.attached, a)
	}
	if p.pin == nil {
		return nil
	}
	if err := p.detachOthers(); err != nil {
		return err
	}
	if err := p.finishCarryOver(); err != nil {
		return err
	}
	return p.record(nil)
}

func (p *Plane) attach(name string, mode model.XDPMode) (attachment, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return attachment{}, fmt.Errorf("no such interface; 'ip link' lists those there are")
	}
	// Answers to clients leave where clients' packets come from.
	if err := p.sendsThrough(uint32(iface.Index)); err != nil {
		return attachment{}, err
	}
	if a, err := p.replace(iface, mode); a != nil || err != nil {
		return *cmp.Or(a, &attachment{}), err
	}
	a, err := xdp.Attach(p.program, iface.Name, iface.Index, mode)
	if err != nil {
		return attachment{}, err
	}
	if p.pin != nil {
		if err := a.Pin(p.pin.linkPath(iface.Name)); err != nil {
			return attachment{}, errors.Join(fmt.Errorf("pin the attachment: %w", err), a.Close())
		}
	}
	return attachment{name: iface.Name, link: a.Link, mode: a.Mode, warn: a.Warning, fresh: p.pin != nil}, nil
}

// replace puts the program in the place of a former daemon's, if there is one and
// it is attached in a mode that will do.
func (p *Plane) replace(iface *net.Interface, mode model.XDPMode) (*attachment, error) {
	if p.pin == nil {
		return nil, nil
	}
	l, err := p.pin.loadLink(iface.Name, iface.Index)
	if l == nil || err != nil {
		return nil, err
	}
	was := p.links[iface.Name]
	if mode == model.XDPNative && was == xdp.Generic || mode == model.XDPGeneric && was == xdp.Native {
		return nil, errors.Join(os.Remove(p.pin.linkPath(iface.Name)), l.Close())
	}
	if err := l.Update(p.program); err != nil {
		return nil, errors.Join(fmt.Errorf("replace the former program: %w", err), l.Close())
	}
	a := &attachment{name: iface.Name, link: l, mode: cmp.Or(was, xdp.Native)}
	if a.mode == xdp.Generic {
		a.warn = "generic mode is several times slower than native"
	}
	return a, nil
}

// detachOthers takes a former daemon's program off interfaces that are no longer ours.
func (p *Plane) detachOthers() error {
	names, err := p.pin.links()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(p.attached, func(a attachment) bool { return a.name == name }) {
			if err := unpinLink(p.pin.linkPath(name)); err != nil {
				return fmt.Errorf("detach from %s: %w", name, err)
			}
		}
	}
	return nil
}

// takeBack undoes an Attach that failed: what it attached is detached, what it
// replaced stays.
func (p *Plane) takeBack(first int) error {
	var errs []error
	for _, a := range p.attached[first:] {
		if a.fresh {
			errs = append(errs, a.link.Unpin())
		}
	}
	return errors.Join(append(errs, p.closeLinks(first))...)
}

// Detach takes the program off all interfaces and removes all pins.
func (p *Plane) Detach() error {
	err := p.closeLinks(0)
	if p.pin != nil {
		err = errors.Join(err, p.pin.clear())
	}
	return err
}

func (p *Plane) closeLinks(first int) error {
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

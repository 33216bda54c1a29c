package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf/link"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// openBare puts a program in the balancer's place that does the least there can be: it
// writes MAC addresses, as dsr-l2 does. What is lost with it, the lab takes for XDP.
func openBare(ctx context.Context, s *site) (w *way, err error) {
	w = &way{targets: []netip.Addr{s.vip}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := errors.Join(s.forXDP(w), s.answerThrough(s.Router)); err != nil {
		return w, err
	}
	objects, err := loadBare(s)
	if err != nil {
		return w, err
	}
	w.later(objects.Close)
	w.passed = objects.seen
	err = s.Balancer.Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: objects.ToBackend, Interface: device.Index, Flags: link.XDPDriverMode})
		if err == nil {
			w.later(l.Close)
		}
		return err
	})
	if err != nil {
		return w, fmt.Errorf("attach to the balancer's eth0: %w", err)
	}
	return w, s.takeVIP(ctx, w, "--no-decap")
}

// loadBare loads the program with the lab's addresses.
func loadBare(s *site) (*throughputObjects, error) {
	spec, err := loadThroughput()
	if err != nil {
		return nil, err
	}
	var macs [backends][6]byte
	for i, b := range s.Backends {
		if macs[i], err = macOf(b); err != nil {
			return nil, err
		}
	}
	own, err := macOf(s.Balancer)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(spec.Variables["vip"].Set(s.vip.As4()), spec.Variables["own_mac"].Set(own),
		spec.Variables["backend_macs"].Set(macs)); err != nil {
		return nil, err
	}
	objects := &throughputObjects{}
	if err := spec.LoadAndAssign(objects, nil); err != nil {
		return nil, fmt.Errorf("load the bare program: %w", err)
	}
	return objects, nil
}

// macOf is the MAC address of a host's eth0.
func macOf(h *lab.Host) (mac [6]byte, err error) {
	err = h.Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err == nil {
			copy(mac[:], device.HardwareAddr)
		}
		return err
	})
	return mac, err
}

package backend

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// validate refuses what cannot work and puts the options in order.
func (o *Options) validate() error {
	if len(o.VIPs) == 0 {
		return errors.New("no VIP: name at least one address to serve with --vip")
	}
	vips := map[netip.Addr]bool{}
	for _, vip := range o.VIPs {
		if err := model.ValidateAddress(vip); err != nil {
			return fmt.Errorf("--vip: %w", err)
		}
		if vips[vip] {
			return fmt.Errorf("--vip: %s is there twice", vip)
		}
		vips[vip] = true
	}
	if len(o.Interfaces) == 0 {
		return errors.New("no interface: name the one that packets for the VIPs arrive on with --interface")
	}
	interfaces := map[string]bool{}
	for _, name := range o.Interfaces {
		if interfaces[name] {
			return fmt.Errorf("--interface: %s is there twice", name)
		}
		interfaces[name] = true
	}
	if o.Mode > model.XDPGeneric {
		return fmt.Errorf("XDP mode %d is none; want auto, native or generic", o.Mode)
	}
	return o.validateBalancers()
}

func (o *Options) validateBalancers() error {
	if o.Decap && len(o.Balancers) == 0 {
		return errors.New("no balancer: packets are decapsulated only for configured ones; name their addresses with --balancer")
	}
	// A longest-prefix match knows IPv4 by its place in IPv6.
	mapped := netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96)
	for _, p := range o.Balancers {
		switch {
		case !p.IsValid():
			return errors.New("--balancer: not a prefix; want an address or a prefix such as 10.0.0.0/28 or 2001:db8::/64")
		case p.Addr().Is4In6():
			return fmt.Errorf("--balancer: %s is IPv4-mapped; write it as IPv4", p)
		case p.Bits() == 0:
			return fmt.Errorf("--balancer: %s is everybody, who could then send what they like past the filters in front of this host; name the balancers", p)
		case p.Overlaps(mapped):
			return fmt.Errorf("--balancer: %s is so wide that it holds the IPv4-mapped addresses; name the balancers", p)
		}
	}
	return nil
}

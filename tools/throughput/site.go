package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// backends are the web servers of the lab. With as many threads of the client, each asks one
// of them where there is no balancer.
const backends = threads

// site is the lab that all paths go through: client, router, switch, balancer, web servers.
type site struct {
	*lab.Lab
	binary string
	vip    netip.Addr
}

func newSite(ctx context.Context, binary string) (_ *site, err error) {
	l, err := lab.New(lab.Options{Backends: backends, Return: lab.ReturnGateway})
	if err != nil {
		return nil, err
	}
	vip, _ := lab.VIP(1)
	s := &site{l, binary, vip}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, h := range s.Hosts() {
		// Ports for all connections of a turn.
		if err := h.Sysctl("net/ipv4/ip_local_port_range=1024 65535", "net/ipv4/tcp_tw_reuse=1"); err != nil {
			return nil, err
		}
	}
	for _, b := range s.Backends {
		if _, err := b.Nginx(ctx, lab.Site{BigBytes: bigBytes}); err != nil {
			return nil, err
		}
	}
	return s, s.plain()
}

// addresses are those of the web servers.
func (s *site) addresses() (all []netip.Addr) {
	for _, b := range s.Backends {
		all = append(all, b.V4)
	}
	return all
}

// plain takes the program off the switch that lab.New puts there for a balancer on XDP, so
// that packets of others do not pay for it.
func (s *site) plain() error {
	_, err := s.Switch.Run("ip", "link", "set", "dev", s.Balancer.Name, "xdp", "off")
	return err
}

// answerThrough makes a host the way of the web servers' answers.
func (s *site) answerThrough(h *lab.Host) error {
	var errs []error
	for _, b := range s.Backends {
		_, err := b.Run("ip", "route", "replace", "default", "via", h.V4.String())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// received is how many packets have come to the balancer's interface.
func (s *site) received() (n uint64, err error) {
	out, err := s.Balancer.Run("ip", "-j", "-s", "link", "show", "dev", "eth0")
	if err != nil {
		return 0, err
	}
	_, out, _ = strings.Cut(out, `"rx":`)
	_, out, _ = strings.Cut(out, `"packets":`)
	out, _, _ = strings.Cut(out, ",")
	if n, err = strconv.ParseUint(strings.TrimSpace(out), 10, 64); err != nil {
		return 0, fmt.Errorf("packets of the balancer's eth0: %w", err)
	}
	return n, nil
}

// write makes a file in the balancer's directory.
func (s *site) write(name, text string) (string, error) {
	file := filepath.Join(s.Balancer.Dir(), name)
	return file, os.WriteFile(file, []byte(text), 0o644)
}

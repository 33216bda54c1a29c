package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"

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
	l, err := lab.New(lab.Options{Backends: backends, Queues: runtime.NumCPU(), Return: lab.ReturnGateway})
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
	if err := s.settings(); err != nil {
		return nil, err
	}
	for _, b := range s.Backends {
		if _, err := b.Nginx(ctx, lab.Site{BigBytes: bigBytes}); err != nil {
			return nil, err
		}
	}
	return s, s.plain()
}

// settings are the hosts' own, whatever the machine has: ports for all connections of a
// turn, time stamps by which a server can tell that one which it waits to forget has been
// succeeded by another, whatever path that takes, and a congestion control that sets no
// pace. The switch filters nothing.
func (s *site) settings() error {
	for _, h := range s.Hosts() {
		if err := h.Sysctl("net/ipv4/ip_local_port_range=1024 65535", "net/ipv4/tcp_timestamps=2",
			"net/ipv4/tcp_congestion_control=reno"); err != nil {
			return err
		}
	}
	// It is there if the kernel has filters for switches.
	if err := s.Switch.Sysctl("net/bridge/bridge-nf-call-iptables=0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

// forXDP puts it back, until the way is closed.
func (s *site) forXDP(w *way) error {
	if err := s.Switch.ReceiveXDP(s.Balancer.Name); err != nil {
		return err
	}
	w.later(s.plain)
	return nil
}

// takeVIP prepares the web servers to answer for the VIP, until the way is closed.
func (s *site) takeVIP(ctx context.Context, w *way, options ...string) error {
	for _, b := range s.Backends {
		helper, err := b.BackendHelper(ctx, s.binary, []netip.Addr{s.vip}, []netip.Addr{s.Balancer.V4}, options...)
		if err != nil {
			return err
		}
		w.later(helper.Stop)
	}
	return nil
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
	err = s.Balancer.Do(func() error {
		device, err := netlink.LinkByName("eth0")
		if err == nil {
			n = device.Attrs().Statistics.RxPackets
		}
		return err
	})
	return n, err
}

// resets is how many resets the kernels of those that serve have sent.
func (s *site) resets() (n uint64, err error) {
	for _, h := range append([]*lab.Host{s.Balancer}, s.Backends...) {
		out, err := h.Run("nstat", "--zeros", "--ignore", "--noupdate", "--json", "TcpOutRsts")
		if err != nil {
			return 0, err
		}
		var counters struct {
			Kernel struct{ TCPOutRsts uint64 } `json:"kernel"`
		}
		if err := json.Unmarshal([]byte(out), &counters); err != nil {
			return 0, fmt.Errorf("nstat on %s: %w: %s", h.Name, err, out)
		}
		n += counters.Kernel.TCPOutRsts
	}
	return n, nil
}

// write makes a file in the balancer's directory.
func (s *site) write(name, text string) (string, error) {
	file := filepath.Join(s.Balancer.Dir(), name)
	return file, os.WriteFile(file, []byte(text), 0o644)
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Daemon is a steelyard daemon that runs on a host.
type Daemon struct {
	*Process
	// Socket is the unix socket of its API.
	Socket string

	binary string
}

// Daemon writes the configuration to a file, starts `steelyard daemon` with it
// and returns when the API answers: its socket is there before the program is
// on the interfaces. The socket is the one that the configuration names. What
// outlives the daemon lives in the lab's own bpffs, unless the configuration says
// otherwise.
func (h *Host) Daemon(ctx context.Context, binary, socket, config string) (*Daemon, error) {
	if !strings.Contains(config, "pin_path:") {
		config += fmt.Sprintf("pin_path: %s\n", filepath.Join(h.lab.BPFFS(), h.Name))
	}
	file := filepath.Join(h.Dir(), "steelyard.yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("configure the daemon on %s: %w", h.Name, err)
	}
	p, err := h.Start("steelyard-daemon", binary, "daemon", "--config", file)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	d := &Daemon{Process: p, Socket: socket, binary: binary}
	err = p.WaitReady(ctx, func() error {
		_, err := d.CLI("status")
		return err
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return d, nil
}

// CLI runs `steelyard` against the daemon and returns its standard output.
func (d *Daemon) CLI(args ...string) (string, error) {
	return d.host.Run(d.binary, append([]string{"--socket", d.Socket}, args...)...)
}

// BackendHelper starts `steelyard backend` on the host, for these VIPs and for
// packets from these balancers, and returns when the VIPs' addresses are there.
// Further options, such as another --gue-port, come after these.
func (h *Host) BackendHelper(ctx context.Context, binary string, vips, balancers []netip.Addr, options ...string) (*Process, error) {
	args := []string{"backend", "--interface", "eth0"}
	for _, vip := range vips {
		args = append(args, "--vip", vip.String())
	}
	for _, balancer := range balancers {
		args = append(args, "--balancer", balancer.String())
	}
	args = append(args, options...)
	p, err := h.Start("steelyard-backend", binary, args...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	err = p.WaitReady(ctx, func() error {
		for _, vip := range vips {
			out, err := h.Run("ip", "-brief", "address", "show", "to", vip.String())
			if err != nil {
				return err
			}
			if out == "" {
				return fmt.Errorf("%s has no address %s", h.Name, vip)
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// Binary is the absolute path of the steelyard that tests run: STEELYARD_BINARY names it,
// else it is what make build has made, seen from the folder of a package of tests.
func Binary() (string, error) {
	path := os.Getenv("STEELYARD_BINARY")
	if path == "" {
		path = "../../bin/steelyard"
	}
	return filepath.Abs(path)
}

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

// Zone is what a name server answers for.
type Zone struct {
	// Name is that of the zone, such as "example.org".
	Name string
	// Records are lines of a zone file with names relative to the zone's; SOA and
	// NS are there without them.
	Records []string
}

// NSD starts an authoritative name server for a zone, on port 53 of these
// addresses, which the host must have, over UDP and TCP. It returns when the server
// takes connections.
func (h *Host) NSD(ctx context.Context, zone Zone, addresses ...netip.Addr) (*Process, error) {
	dir := filepath.Join(h.Dir(), "nsd")
	if err := zone.write(dir, addresses); err != nil {
		return nil, fmt.Errorf("nsd on %s: %w", h.Name, err)
	}
	p, err := h.Start("nsd", "nsd", "-d", "-c", filepath.Join(dir, "nsd.conf"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	err = p.WaitReady(ctx, func() error {
		for _, address := range addresses {
			conn, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(address, 53).String(), netip.Addr{})
			if err != nil {
				return err
			}
			conn.Close()
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// write puts configuration and zone file into a directory.
func (z Zone) write(dir string, addresses []netip.Addr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var listen strings.Builder
	for _, address := range addresses {
		fmt.Fprintf(&listen, "\tip-address: %s\n", address)
	}
	config := fmt.Sprintf(`server:
%[1]s	server-count: 1
	username: ""
	zonesdir: "%[2]s"
	database: ""
	pidfile: ""
	xfrdfile: "%[2]s/xfrd.state"
	xfrdir: "%[2]s"
	zonelistfile: "%[2]s/zone.list"
remote-control:
	control-enable: no
zone:
	name: %[3]s
	zonefile: zone
`, listen.String(), dir, z.Name)
	if err := os.WriteFile(filepath.Join(dir, "nsd.conf"), []byte(config), 0o644); err != nil {
		return err
	}
	records := append([]string{"@ SOA ns hostmaster 1 3600 600 86400 60", "@ NS ns", "ns A 192.0.2.53"}, z.Records...)
	text := fmt.Sprintf("$ORIGIN %s.\n$TTL 60\n%s\n", z.Name, strings.Join(records, "\n"))
	return os.WriteFile(filepath.Join(dir, "zone"), []byte(text), 0o644)
}

package daemon

import (
	"net/netip"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/config"
	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Everything of the configuration that the packet path knows gets there.
func TestPlaneOptions(t *testing.T) {
	c := config.Default()
	want := dataplane.Options{Seed: dataplane.NewSeed([16]byte{1}), GUEPort: dataplane.DefaultGUEPort, ICMPRate: 1000, Screening: true, NATPorts: model.PortRange{First: 1024, Last: 65535}}
	if got := planeOptions(c, [16]byte{1}); got != want {
		t.Errorf("by default %+v, want %+v", got, want)
	}
	c.Encapsulation = config.Encapsulation{
		SourceIPv4: netip.MustParsePrefix("198.51.100.0/24"), SourceIPv6: netip.MustParsePrefix("2001:db8::/112"), GUEPort: 6081, GUEChecksum: true,
	}
	c.ICMPRate, c.Screening = 7, false
	c.NAT = config.NAT{SourceIPv4: netip.MustParsePrefix("10.0.1.100/32"), SourceIPv6: netip.MustParsePrefix("2001:db8:1::/126"), Ports: model.PortRange{First: 2000, Last: 3000}}
	want = dataplane.Options{
		Seed: want.Seed, SourceIPv4: c.Encapsulation.SourceIPv4, SourceIPv6: c.Encapsulation.SourceIPv6, GUEPort: 6081, GUEChecksum: true, ICMPRate: 7,
		NATSourceIPv4: c.NAT.SourceIPv4, NATSourceIPv6: c.NAT.SourceIPv6, NATPorts: model.PortRange{First: 2000, Last: 3000},
	}
	if got := planeOptions(c, [16]byte{1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

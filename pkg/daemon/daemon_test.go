package daemon

import (
	"net/netip"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/config"
	"github.com/steelyard-lb/steelyard/pkg/dataplane"
)

// Everything of the configuration that the packet path knows gets there.
func TestPlaneOptions(t *testing.T) {
	c := config.Default()
	want := dataplane.Options{Seed: dataplane.NewSeed([16]byte{1}), GUEPort: dataplane.DefaultGUEPort, ICMPRate: 1000, Screening: true}
	if got := planeOptions(c, [16]byte{1}); got != want {
		t.Errorf("by default %+v, want %+v", got, want)
	}
	c.Encapsulation = config.Encapsulation{
		SourceIPv4: netip.MustParsePrefix("198.51.100.0/24"), SourceIPv6: netip.MustParsePrefix("2001:db8::/112"), GUEPort: 6081, GUEChecksum: true,
	}
	c.ICMPRate, c.Screening = 7, false
	want = dataplane.Options{
		Seed: want.Seed, SourceIPv4: c.Encapsulation.SourceIPv4, SourceIPv6: c.Encapsulation.SourceIPv6, GUEPort: 6081, GUEChecksum: true, ICMPRate: 7,
	}
	if got := planeOptions(c, [16]byte{1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

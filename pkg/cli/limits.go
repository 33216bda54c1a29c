package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// limitFlags are the limits of a VIP.
type limitFlags struct {
	connections, packets             string
	sourceConnections, sourcePackets string
	ipv4Prefix, ipv6Prefix           uint32
}

func (f *limitFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.connections, "limit-connections", "", "new connections per second: `RATE[,burst=N][,observe]`; none: any number (new VIPs: none)")
	flags.StringVar(&f.packets, "limit-packets", "", "packets per second: `RATE[,burst=N][,observe]` (new VIPs: none)")
	flags.StringVar(&f.sourceConnections, "limit-source-connections", "", "new connections per second of one source: `RATE[,burst=N][,observe]` (new VIPs: none)")
	flags.StringVar(&f.sourcePackets, "limit-source-packets", "", "packets per second of one source: `RATE[,burst=N][,observe]` (new VIPs: none)")
	flags.Uint32Var(&f.ipv4Prefix, "limit-ipv4-prefix", 0, fmt.Sprintf("bits of an IPv4 address that make a source for limits, 1 to 32 (new VIPs: %d)", model.DefaultLimitIPv4))
	flags.Uint32Var(&f.ipv6Prefix, "limit-ipv6-prefix", 0, fmt.Sprintf("the same for IPv6, 1 to 128 (new VIPs: %d)", model.DefaultLimitIPv6))
	for _, free := range []string{"limit-connections", "limit-packets", "limit-source-connections", "limit-source-packets", "limit-ipv4-prefix", "limit-ipv6-prefix"} {
		completeFlag(cmd, free)
	}
}

func (f *limitFlags) fill(cmd *cobra.Command, fields *steelyardv1.VIPFields) {
	fields.LimitConnections = given(cmd, "limit-connections", f.connections)
	fields.LimitPackets = given(cmd, "limit-packets", f.packets)
	fields.LimitSourceConnections = given(cmd, "limit-source-connections", f.sourceConnections)
	fields.LimitSourcePackets = given(cmd, "limit-source-packets", f.sourcePackets)
	fields.LimitIpv4Prefix = given(cmd, "limit-ipv4-prefix", f.ipv4Prefix)
	fields.LimitIpv6Prefix = given(cmd, "limit-ipv6-prefix", f.ipv6Prefix)
}

// limitProperties are the limits that a VIP has.
func limitProperties(l model.Limits) []string {
	var pairs []string
	add := func(name string, one model.Limit, of string) {
		if one.Rate != 0 {
			pairs = append(pairs, "limit "+name, one.String()+of)
		}
	}
	ipv4, ipv6 := l.Prefixes()
	of := fmt.Sprintf(" (IPv4 /%d, IPv6 /%d)", ipv4, ipv6)
	add("connections", l.Connections, "")
	add("packets", l.Packets, "")
	add("source connections", l.SourceConnections, of)
	add("source packets", l.SourcePackets, of)
	return pairs
}

// limitsView are the limits of a VIP for programs, as the flags take them.
type limitsView struct {
	Connections       string `json:"connections"`
	Packets           string `json:"packets"`
	SourceConnections string `json:"source_connections"`
	SourcePackets     string `json:"source_packets"`
	IPv4Prefix        uint8  `json:"ipv4_prefix"`
	IPv6Prefix        uint8  `json:"ipv6_prefix"`
	// Observed are packets that limits which only observe would have dropped, by the
	// reason that they would have had.
	Observed map[string]uint64 `json:"observed,omitempty"`
	// Forgotten are sources whose limits began anew for want of room.
	Forgotten uint64 `json:"forgotten"`
}

func viewLimits(v *model.VIPStatus) *limitsView {
	l := v.Limits
	if !l.Any() {
		return nil
	}
	ipv4, ipv6 := l.Prefixes()
	return &limitsView{
		l.Connections.String(), l.Packets.String(), l.SourceConnections.String(), l.SourcePackets.String(), ipv4, ipv6,
		viewReasons(v.Observed), v.Forgotten,
	}
}

// printObserved prints what limits would have dropped that only observe.
func printObserved(w io.Writer, v *model.VIPStatus) {
	for _, r := range v.Observed {
		if r.Packets > 0 {
			fmt.Fprintf(w, "observed: %d would be %s\n", r.Packets, r.Name)
		}
	}
	if v.Forgotten > 0 {
		fmt.Fprintf(w, "limits began anew for %s, for want of room; raise limits.sources in the configuration\n", plural(int(v.Forgotten), "source"))
	}
}

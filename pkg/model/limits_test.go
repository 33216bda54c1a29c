package model

import (
	"strings"
	"testing"
)

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]Limit{
		"none":                   {},
		"1":                      {Rate: 1},
		"1000":                   {Rate: 1000},
		"1000,burst=20":          {Rate: 1000, Burst: 20},
		"1000,observe":           {Rate: 1000, Observe: true},
		"1000,burst=20,observe":  {Rate: 1000, Burst: 20, Observe: true},
		"100000000,burst=1":      {Rate: MaxLimit, Burst: 1},
		"5,observe,burst=100000": {Rate: 5, Burst: 100000, Observe: true},
	} {
		got, err := ParseLimit(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
		if again, err := ParseLimit(got.String()); err != nil || again != want {
			t.Errorf("%q: read back as %+v, %v", got, again, err)
		}
	}
	if got, err := ParseLimit("7,enforce"); err != nil || got != (Limit{Rate: 7}) {
		t.Errorf("enforce: %+v, %v", got, err)
	}
	for _, text := range []string{"", "0", "-1", "1.5", "100000001", "1000,", "1000,burst=0", "1000,burst", "1000,burst=x", "1000,watch", "observe", "None", "1 000"} {
		if got, err := ParseLimit(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestLimitRules(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*VIP)
		want   string
	}{
		"rate":             {func(v *VIP) { v.Limits.Packets.Rate = MaxLimit + 1 }, "limit_packets: 100000001 is out of range"},
		"no rate":          {func(v *VIP) { v.Limits.Packets.Burst = 5 }, "limit_packets: a limit without a rate"},
		"burst too small":  {func(v *VIP) { v.Limits.Connections = Limit{Rate: 1000, Burst: 9} }, "limit_connections: a burst of 9 is out of range 10 to"},
		"burst too large":  {func(v *VIP) { v.Limits.SourcePackets = Limit{Rate: 1, Burst: MaxLimit + 1} }, "limit_source_packets: a burst"},
		"plain udp":        {func(v *VIP) { v.Protocol, v.Limits.Connections.Rate = UDP, 5 }, "limit_connections: plain udp does not tell"},
		"plain udp source": {func(v *VIP) { v.Protocol, v.Limits.SourceConnections.Rate = UDP, 5 }, "limit_source_connections: plain udp"},
		"ipv4 prefix":      {func(v *VIP) { v.Limits.IPv4Prefix = 33 }, "limit_ipv4_prefix: 33"},
		"ipv6 prefix":      {func(v *VIP) { v.Limits.IPv6Prefix = 129 }, "limit_ipv6_prefix: 129"},
		"good": {func(v *VIP) {
			v.Limits = Limits{Connections: Limit{Rate: 1000, Burst: 10}, SourcePackets: Limit{Rate: 1}, IPv4Prefix: 32, IPv6Prefix: 128}
		}, ""},
		"quic": {func(v *VIP) { v.Protocol, v.QUIC, v.Limits.Connections.Rate = UDP, true, 5 }, ""},
	} {
		v, vip := &validator{}, VIP{Protocol: TCP}
		c.change(&vip)
		v.limits("VIP", &vip)
		switch {
		case c.want == "" && len(v.errs) > 0:
			t.Errorf("%s: %v", name, v.errs)
		case c.want != "" && (len(v.errs) != 1 || !strings.Contains(v.errs[0].Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, v.errs, c.want)
		}
	}
}

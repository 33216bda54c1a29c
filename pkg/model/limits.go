package model

import (
	"fmt"
	"strconv"
	"strings"
)

// Bounds of limits.
const (
	// MaxLimit is the highest rate, per second.
	MaxLimit = 100_000_000
	// LeastBurst is the part of a rate that a burst has at least: the packet path's
	// clock ticks every few milliseconds.
	LeastBurst = 100
	// DefaultLimitIPv4 and DefaultLimitIPv6 are how many bits make a source.
	DefaultLimitIPv4 = 32
	DefaultLimitIPv6 = 64
)

// Limit is how many of something may come: a bucket of tokens.
type Limit struct {
	// Rate per second, 1 to [MaxLimit]; 0: no limit.
	Rate uint32
	// Burst is how many may come at once, at least 1 and the [LeastBurst]th part of Rate;
	// 0: as many as in a second.
	Burst uint32
	// Observe: nothing is dropped, but what would be is counted.
	Observe bool
}

// ParseLimit reads "none", or a rate with what may follow it: "1000",
// "1000,burst=2000", "1000,observe".
func ParseLimit(s string) (Limit, error) {
	var l Limit
	if s == "none" {
		return l, nil
	}
	number := func(text, what string, least uint64) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n < least || n > MaxLimit {
			return 0, fmt.Errorf("%s %q is no number from %d to %d; write RATE[,burst=N][,observe], or none", what, text, least, MaxLimit)
		}
		return uint32(n), nil
	}
	rate, rest, more := strings.Cut(s, ",")
	var err error
	if l.Rate, err = number(rate, "rate", 1); err != nil {
		return Limit{}, err
	}
	for more {
		var setting string
		setting, rest, more = strings.Cut(rest, ",")
		burst, isBurst := strings.CutPrefix(setting, "burst=")
		switch {
		case isBurst:
			if l.Burst, err = number(burst, "burst", 1); err != nil {
				return Limit{}, err
			}
		case setting == "observe":
			l.Observe = true
		case setting != "enforce":
			return Limit{}, fmt.Errorf("unknown setting %q of a limit; want burst=N, observe or enforce", setting)
		}
	}
	return l, nil
}

func (l Limit) String() string {
	if l.Rate == 0 {
		return "none"
	}
	s := strconv.FormatUint(uint64(l.Rate), 10)
	if l.Burst != 0 {
		s += fmt.Sprintf(",burst=%d", l.Burst)
	}
	if l.Observe {
		s += ",observe"
	}
	return s
}

// AtOnce is how many may come at once.
func (l Limit) AtOnce() uint32 {
	if l.Burst == 0 {
		return l.Rate
	}
	return l.Burst
}

// Limits of a VIP, of which each may be none.
type Limits struct {
	// Connections and Packets bound what the VIP gets, SourceConnections and
	// SourcePackets what it gets from one source. Connections are new ones.
	Connections, Packets             Limit
	SourceConnections, SourcePackets Limit
	// IPv4Prefix and IPv6Prefix are how many bits of an address make a source, 1 to
	// 32 and 1 to 128; 0: [DefaultLimitIPv4] and [DefaultLimitIPv6].
	IPv4Prefix, IPv6Prefix uint8
}

// Any reports whether there is a limit.
func (l Limits) Any() bool {
	return l.Connections.Rate|l.Packets.Rate|l.SourceConnections.Rate|l.SourcePackets.Rate != 0
}

// Prefixes are how many bits of an address make a source.
func (l Limits) Prefixes() (ipv4, ipv6 uint8) {
	ipv4, ipv6 = l.IPv4Prefix, l.IPv6Prefix
	if ipv4 == 0 {
		ipv4 = DefaultLimitIPv4
	}
	if ipv6 == 0 {
		ipv6 = DefaultLimitIPv6
	}
	return ipv4, ipv6
}

func (v *validator) limits(at string, vip *VIP) {
	l := vip.Limits
	for name, one := range map[string]Limit{
		"connections": l.Connections, "packets": l.Packets, "source_connections": l.SourceConnections, "source_packets": l.SourcePackets,
	} {
		at := fmt.Sprintf("%s, limit_%s", at, name)
		least := max(1, one.Rate/LeastBurst)
		switch {
		case one.Rate > MaxLimit:
			v.fail(at, "%d is out of range 1 to %d", one.Rate, MaxLimit)
		case one.Rate == 0 && one != (Limit{}):
			v.fail(at, "a limit without a rate")
		case one.Rate != 0 && (one.AtOnce() < least || one.AtOnce() > MaxLimit):
			v.fail(at, "a burst of %d is out of range %d to %d: the hundredth part of the rate at least, for the clock ticks that coarsely", one.AtOnce(), least, MaxLimit)
		case one.Rate != 0 && strings.HasSuffix(name, "connections") && !vip.HasOpeners():
			v.fail(at, "plain udp does not tell where connections begin; limit its packets, or say that it carries QUIC")
		}
	}
	if l.IPv4Prefix > 32 {
		v.fail(at+", limit_ipv4_prefix", "%d is out of range 1 to 32", l.IPv4Prefix)
	}
	if l.IPv6Prefix > 128 {
		v.fail(at+", limit_ipv6_prefix", "%d is out of range 1 to 128", l.IPv6Prefix)
	}
}

package dataplane

import (
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// limitTime is what times of limits are counted in: so many to a nanosecond; see
// bpf/limit.h.
const limitTime = 16

// limitEpoch is what they begin with when the kernel does.
const limitEpoch = 1 << 62

const sourcesPerLine = 4

func sourceLines(limits Limits) uint32 {
	return ceilPowerOfTwo((limits.Sources + sourcesPerLine - 1) / sourcesPerLine)
}

// limitRecord is a limit for packets; all zero if there is none.
func limitRecord(l model.Limit) lbLimit {
	if l.Rate == 0 {
		return lbLimit{}
	}
	second := uint64(time.Second) * limitTime
	return lbLimit{Cost: second / uint64(l.Rate), Burst: second * uint64(l.AtOnce()) / uint64(l.Rate)}
}

// setLimits writes the limits of a VIP into its guard.
func setLimits(g *lbGuard, l model.Limits) {
	for kind, one := range map[lbLimited]model.Limit{
		lbLimitedLIMITED_PACKETS: l.Packets, lbLimitedLIMITED_CONNECTIONS: l.Connections,
		lbLimitedLIMITED_SOURCE_PACKETS: l.SourcePackets, lbLimitedLIMITED_SOURCE_CONNECTIONS: l.SourceConnections,
	} {
		g.Limit[kind] = limitRecord(one)
		if one.Observe {
			g.Observed |= 1 << kind
		}
	}
	ipv4, ipv6 := l.Prefixes()
	g.MaskIpv4 = ^uint32(0) << (32 - ipv4)
	g.MaskIpv6 = [2]uint64{^uint64(0) << (64 - min(ipv6, 64)), 0}
	if ipv6 > 64 {
		g.MaskIpv6[1] = ^uint64(0) << (128 - ipv6)
	}
}

// takeToken is the twin of the packet path's take_token: when a bucket will have been
// empty once a token is taken, 0 if it has none. Times in [limitTime].
func takeToken(empty, now uint64, l lbLimit) uint64 {
	if empty+l.Burst < now {
		empty = now - l.Burst
	}
	if empty+l.Cost > now {
		return 0
	}
	return empty + l.Cost
}

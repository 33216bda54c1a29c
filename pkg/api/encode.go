package api

import (
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// list converts every element.
func list[From, To any](from []From, convert func(From) To) []To {
	var to []To
	for _, v := range from {
		to = append(to, convert(v))
	}
	return to
}

func encodeTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func encodeState(s model.State, revision uint64) *steelyardv1.GetResponse {
	return &steelyardv1.GetResponse{
		Revision: revision,
		Vips:     list(s.VIPs, encodeVIP),
		Pools:    list(s.Pools, encodePool),

		SourceLists: list(s.SourceLists, encodeSourceList),
		Sources:     &steelyardv1.NodeSources{Deny: s.Sources.Deny, Allow: s.Sources.Allow, Bogus: s.Sources.Bogus},
	}
}

func encodeSourceList(l model.SourceList) *steelyardv1.SourceList {
	return &steelyardv1.SourceList{Name: l.Name, Digest: l.Digest.String(), Ipv4Prefixes: uint32(l.IPv4), Ipv6Prefixes: uint32(l.IPv6)}
}

func encodeVIP(v model.VIP) *steelyardv1.VIP {
	return &steelyardv1.VIP{
		Name: v.Name, Endpoints: list(v.Endpoints, EncodeEndpoint), Protocol: v.Protocol.String(),
		Mode: v.Mode.String(), Pool: v.Pool,
		Tracking: v.Tracking.String(), IdleTimeoutNanoseconds: int64(v.IdleTimeout),
		Affinity: &steelyardv1.Affinity{
			Scope: v.Affinity.Scope.String(), Ipv4Prefix: uint32(v.Affinity.IPv4Prefix), Ipv6Prefix: uint32(v.Affinity.IPv6Prefix),
		},
		Fragments: v.Fragments.String(), Mss: uint32(v.MSS), Quic: v.QUIC, SynCookies: v.SYNCookies,
		Deny: v.Sources.Deny, Allow: v.Sources.Allow, Limits: encodeLimits(v.Limits),
	}
}

func encodeLimits(l model.Limits) *steelyardv1.Limits {
	return &steelyardv1.Limits{
		Connections: l.Connections.String(), Packets: l.Packets.String(),
		SourceConnections: l.SourceConnections.String(), SourcePackets: l.SourcePackets.String(),
		Ipv4Prefix: uint32(l.IPv4Prefix), Ipv6Prefix: uint32(l.IPv6Prefix),
	}
}

// EncodeEndpoint is an endpoint as a request names it.
func EncodeEndpoint(e model.Endpoint) *steelyardv1.Endpoint {
	return &steelyardv1.Endpoint{Address: e.Address.String(), FirstPort: uint32(e.Ports.First), LastPort: uint32(e.Ports.Last)}
}

func encodePool(p model.Pool) *steelyardv1.Pool {
	return &steelyardv1.Pool{
		Name: p.Name, TableSize: p.TableSize, OnAllDown: p.OnAllDown.String(),
		Checks: list(p.Checks, encodeCheck), Backends: list(p.Backends, encodeBackend),
		DownGraceNanoseconds: int64(p.DownGrace), SlowStartNanoseconds: int64(p.SlowStart),
	}
}

func encodeBackend(b model.Backend) *steelyardv1.Backend {
	encoded := &steelyardv1.Backend{
		Address: b.Address.String(), Port: uint32(b.Port), Weight: b.Weight, State: b.State.String(),
		ServerIds: list(b.ServerIDs, model.ServerID.String), MaxConnections: b.MaxConnections,
	}
	if b.State == model.Draining {
		encoded.Drain = &steelyardv1.Drain{
			SinceUnixNanoseconds: encodeTime(b.Drain.Since), DeadlineUnixNanoseconds: encodeTime(b.Drain.Deadline), Remove: b.Drain.Remove,
		}
	}
	return encoded
}

func encodeBackendName(b BackendName) *steelyardv1.BackendName {
	return &steelyardv1.BackendName{Pool: b.Pool, Address: b.ID.Address.String(), Port: uint32(b.ID.Port)}
}

func encodeCheck(c model.Check) *steelyardv1.Check {
	return &steelyardv1.Check{
		Name: c.Name, Type: c.Type.String(), Port: uint32(c.Port),
		IntervalNanoseconds: int64(c.Interval), TimeoutNanoseconds: int64(c.Timeout),
		Rise: c.Rise, Fall: c.Fall, Jitter: c.Jitter,
		Host: c.Host, Path: c.Path, Status: c.Status, Body: c.Body, Send: c.Send,
	}
}

func encodeStatus(s model.Status) *steelyardv1.StatusResponse {
	return &steelyardv1.StatusResponse{
		Version: s.Version, StartedUnixNanoseconds: encodeTime(s.Started),
		Revision: s.Revision, Applied: s.Applied, Error: s.Error,
		Interfaces: list(s.Interfaces, func(i model.InterfaceStatus) *steelyardv1.InterfaceStatus {
			return &steelyardv1.InterfaceStatus{Name: i.Name, Mode: i.Mode, Warning: i.Warning}
		}),
		Vips: list(s.VIPs, func(v model.VIPStatus) *steelyardv1.VIPStatus {
			return &steelyardv1.VIPStatus{
				Vip: encodeVIP(v.VIP), Available: v.Available, InFlux: v.InFlux, Flows: v.Flows, Counters: encodeCounters(v.Counters),
				Dropped: list(v.Dropped, encodeReason), Observed: list(v.Observed, encodeReason), Forgotten: v.Forgotten,
			}
		}),
		Pools: list(s.Pools, func(p model.PoolStatus) *steelyardv1.PoolStatus {
			return &steelyardv1.PoolStatus{
				Name: p.Name, TableSize: p.TableSize, OnAllDown: p.OnAllDown.String(), SlotsInFlux: p.SlotsInFlux,
				Backends: list(p.Backends, encodeBackendStatus),
			}
		}),
		Reasons: list(s.Reasons, encodeReason),
		Maps: list(s.Maps, func(m model.MapUse) *steelyardv1.MapUse {
			return &steelyardv1.MapUse{Name: m.Name, Used: m.Used, Capacity: m.Capacity, Bytes: m.Bytes}
		}),
		Flows:     encodeFlows(s.Flows),
		Fragments: &steelyardv1.FragmentTable{Remembered: s.Fragments.Remembered, Evicted: s.Fragments.Evicted},
		Nat: &steelyardv1.NATPorts{
			Used: s.NAT.Used, Capacity: s.NAT.Capacity, Opened: s.NAT.Opened, Evicted: s.NAT.Evicted, Exhausted: s.NAT.Exhausted,
		},
	}
}

func encodeReason(r model.Reason) *steelyardv1.Reason {
	return &steelyardv1.Reason{Name: r.Name, Packets: r.Packets}
}

func encodeFlows(f model.FlowTable) *steelyardv1.FlowTable {
	return &steelyardv1.FlowTable{
		Live: f.Live, Capacity: f.Capacity, SlotsInFlux: f.SlotsInFlux,
		Sweeps: f.Sweeps, Entries: f.Entries, TookNanoseconds: int64(f.Took),
		Remembered: f.Remembered, Evicted: f.Evicted, EvictedConnections: f.EvictedConnections, Unremembered: f.Unremembered,
	}
}

func encodeCounters(c model.Counters) *steelyardv1.Counters {
	return &steelyardv1.Counters{Packets: c.Packets, Bytes: c.Bytes, Connections: c.Connections}
}

func encodeBackendStatus(b model.BackendStatus) *steelyardv1.BackendStatus {
	return &steelyardv1.BackendStatus{
		Backend: encodeBackend(b.Backend), Health: b.Health.String(), SinceUnixNanoseconds: encodeTime(b.Since),
		Checks: list(b.Checks, encodeCheckStatus),
		Slots:  b.Slots, Flows: b.Flows, KeepsFlows: b.KeepsFlows, Named: b.Named,
		Counted: b.Counted, Full: b.Full,
		NextHop: &steelyardv1.NextHop{
			Interface: b.NextHop.Interface, Vlan: uint32(b.NextHop.VLAN), Mac: b.NextHop.MAC, Problem: b.NextHop.Problem,
		},
		Counters: encodeCounters(b.Counters),
	}
}

func encodeCheckStatus(c model.CheckStatus) *steelyardv1.CheckStatus {
	return &steelyardv1.CheckStatus{
		Name: c.Name, Health: c.Health.String(), Result: c.Result, Detail: c.Detail, Reason: c.Reason,
		SinceUnixNanoseconds: encodeTime(c.Since), CheckedUnixNanoseconds: encodeTime(c.Checked),
		DurationNanoseconds: int64(c.Duration),
	}
}

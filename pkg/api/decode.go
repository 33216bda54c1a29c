package api

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// decoder turns what a daemon answered into the words of pkg/model. A daemon that
// is newer than the client may answer with words that the client does not know;
// the first of them is kept as the error.
type decoder struct{ err error }

func (d *decoder) fail(err error) {
	if d.err == nil && err != nil {
		d.err = fmt.Errorf("the daemon's answer is not understood: %w; is it of another version than this program?", err)
	}
}

func decodeWord[T any](d *decoder, s string, parse func(string) (T, error)) T {
	value, err := parse(s)
	d.fail(err)
	return value
}

func (d *decoder) port(n uint32) uint16 { return decodeNumber[uint16](d, "port", n) }

func decodeNumber[T uint8 | uint16](d *decoder, what string, n uint32) T {
	if uint32(T(n)) != n {
		d.fail(fmt.Errorf("%s %d", what, n))
	}
	return T(n)
}

func decodeTime(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

func parseHealth(s string) (model.Health, error) {
	for _, h := range []model.Health{model.HealthUnknown, model.HealthUp, model.HealthDown} {
		if s == h.String() {
			return h, nil
		}
	}
	return 0, fmt.Errorf("unknown health %q", s)
}

func decodeState(r *steelyardv1.GetResponse) (model.State, uint64, error) {
	d := &decoder{}
	s := model.State{
		VIPs: list(r.Vips, d.vip), Pools: list(r.Pools, d.pool), SourceLists: list(r.SourceLists, d.sourceList),
		Sources: model.NodeSources{
			Sources: model.Sources{Deny: r.GetSources().GetDeny(), Allow: r.GetSources().GetAllow()}, Bogus: r.GetSources().GetBogus(),
		},
	}
	return s, r.Revision, d.err
}

func (d *decoder) sourceList(l *steelyardv1.SourceList) model.SourceList {
	decoded := model.SourceList{Name: l.GetName(), IPv4: int(l.GetIpv4Prefixes()), IPv6: int(l.GetIpv6Prefixes())}
	digest, err := hex.DecodeString(l.GetDigest())
	if err == nil && copy(decoded.Digest[:], digest) != len(decoded.Digest) {
		err = fmt.Errorf("digest %q", l.GetDigest())
	}
	d.fail(err)
	return decoded
}

func (d *decoder) vip(v *steelyardv1.VIP) model.VIP {
	return model.VIP{
		Name: v.GetName(), Endpoints: list(v.GetEndpoints(), d.endpoint),
		Protocol: decodeWord(d, v.GetProtocol(), model.ParseProtocol),
		Mode:     decodeWord(d, v.GetMode(), model.ParseMode), Pool: v.GetPool(),
		Tracking: decodeWord(d, v.GetTracking(), model.ParseTracking), IdleTimeout: time.Duration(v.GetIdleTimeoutNanoseconds()),
		Affinity: model.Affinity{
			Scope:      decodeWord(d, v.GetAffinity().GetScope(), model.ParseAffinityScope),
			IPv4Prefix: decodeNumber[uint8](d, "IPv4 prefix", v.GetAffinity().GetIpv4Prefix()),
			IPv6Prefix: decodeNumber[uint8](d, "IPv6 prefix", v.GetAffinity().GetIpv6Prefix()),
		},
		Fragments: decodeWord(d, v.GetFragments(), model.ParseFragmentPolicy), MSS: decodeNumber[uint16](d, "MSS", v.GetMss()), QUIC: v.GetQuic(),
		SYNCookies: v.GetSynCookies(),
		Sources:    model.Sources{Deny: v.GetDeny(), Allow: v.GetAllow()},
		Limits:     d.limits(v.GetLimits()),
	}
}

func (d *decoder) limits(l *steelyardv1.Limits) model.Limits {
	if l == nil {
		return model.Limits{}
	}
	return model.Limits{
		Connections: decodeWord(d, l.Connections, model.ParseLimit), Packets: decodeWord(d, l.Packets, model.ParseLimit),
		SourceConnections: decodeWord(d, l.SourceConnections, model.ParseLimit), SourcePackets: decodeWord(d, l.SourcePackets, model.ParseLimit),
		IPv4Prefix: decodeNumber[uint8](d, "IPv4 prefix", l.Ipv4Prefix), IPv6Prefix: decodeNumber[uint8](d, "IPv6 prefix", l.Ipv6Prefix),
	}
}

func (d *decoder) endpoint(e *steelyardv1.Endpoint) model.Endpoint {
	return model.Endpoint{
		Address: decodeWord(d, e.GetAddress(), netip.ParseAddr),
		Ports:   model.PortRange{First: d.port(e.GetFirstPort()), Last: d.port(e.GetLastPort())},
	}
}

func (d *decoder) pool(p *steelyardv1.Pool) model.Pool {
	return model.Pool{
		Name: p.Name, TableSize: p.TableSize, OnAllDown: decodeWord(d, p.OnAllDown, model.ParseOnAllDown),
		Checks: list(p.Checks, d.check), Backends: list(p.Backends, d.backend),
		DownGrace: time.Duration(p.DownGraceNanoseconds), SlowStart: time.Duration(p.SlowStartNanoseconds),
	}
}

func (d *decoder) backend(b *steelyardv1.Backend) model.Backend {
	return model.Backend{
		BackendID:      model.BackendID{Address: decodeWord(d, b.GetAddress(), netip.ParseAddr), Port: d.port(b.GetPort())},
		Weight:         b.GetWeight(),
		State:          decodeWord(d, b.GetState(), model.ParseAdminState),
		MaxConnections: b.GetMaxConnections(),
		Drain: model.Drain{
			Since: decodeTime(b.GetDrain().GetSinceUnixNanoseconds()), Deadline: decodeTime(b.GetDrain().GetDeadlineUnixNanoseconds()),
			Remove: b.GetDrain().GetRemove(),
		},
		ServerIDs: list(b.GetServerIds(), func(s string) model.ServerID { return decodeWord(d, s, model.ParseServerID) }),
	}
}

func (d *decoder) check(c *steelyardv1.Check) model.Check {
	return model.Check{
		Name: c.Name, Type: decodeWord(d, c.Type, model.ParseCheckType), Port: d.port(c.Port),
		Interval: time.Duration(c.IntervalNanoseconds), Timeout: time.Duration(c.TimeoutNanoseconds),
		Rise: c.Rise, Fall: c.Fall, Jitter: c.Jitter,
		Host: c.Host, Path: c.Path, Status: c.Status, Body: c.Body, Send: c.Send,
	}
}

func decodeOutcome(r *steelyardv1.ChangeResponse) (Outcome, error) {
	d := &decoder{}
	return Outcome{Revision: r.Revision, Draining: list(r.Draining, d.backendName)}, d.err
}

func (d *decoder) backendName(b *steelyardv1.BackendName) BackendName {
	return BackendName{b.Pool, model.BackendID{Address: decodeWord(d, b.Address, netip.ParseAddr), Port: d.port(b.Port)}}
}

func decodeStatus(r *steelyardv1.StatusResponse) (model.Status, error) {
	d := &decoder{}
	s := model.Status{
		Version: r.Version, Started: decodeTime(r.StartedUnixNanoseconds),
		Revision: r.Revision, Applied: r.Applied, Error: r.Error,
		Interfaces: list(r.Interfaces, func(i *steelyardv1.InterfaceStatus) model.InterfaceStatus {
			return model.InterfaceStatus{Name: i.Name, Mode: i.Mode, Warning: i.Warning}
		}),
		VIPs: list(r.Vips, func(v *steelyardv1.VIPStatus) model.VIPStatus {
			return model.VIPStatus{VIP: d.vip(v.Vip), Available: v.Available, InFlux: v.InFlux, Flows: v.Flows, Dropped: list(v.Dropped, decodeReason),
				Observed: list(v.Observed, decodeReason), Forgotten: v.Forgotten, Counters: decodeCounters(v.Counters)}
		}),
		Pools: list(r.Pools, func(p *steelyardv1.PoolStatus) model.PoolStatus {
			return model.PoolStatus{
				Name: p.Name, TableSize: p.TableSize, OnAllDown: decodeWord(d, p.OnAllDown, model.ParseOnAllDown),
				SlotsInFlux: p.SlotsInFlux, Backends: list(p.Backends, d.backendStatus),
			}
		}),
		Reasons: list(r.Reasons, decodeReason),
		Maps: list(r.Maps, func(m *steelyardv1.MapUse) model.MapUse {
			return model.MapUse{Name: m.Name, Used: m.Used, Capacity: m.Capacity, Bytes: m.Bytes}
		}),
		Flows:     decodeFlows(r.Flows),
		Fragments: model.FragmentTable{Remembered: r.Fragments.GetRemembered(), Evicted: r.Fragments.GetEvicted()},
		NAT:       decodeNAT(r.Nat),
	}
	return s, d.err
}

func decodeFlows(f *steelyardv1.FlowTable) model.FlowTable {
	return model.FlowTable{
		Live: f.GetLive(), Capacity: f.GetCapacity(), SlotsInFlux: f.GetSlotsInFlux(),
		Sweeps: f.GetSweeps(), Entries: f.GetEntries(), Took: time.Duration(f.GetTookNanoseconds()),
		Remembered: f.GetRemembered(), Evicted: f.GetEvicted(),
		EvictedConnections: f.GetEvictedConnections(), Unremembered: f.GetUnremembered(),
	}
}

func decodeNAT(n *steelyardv1.NATPorts) model.NATPorts {
	return model.NATPorts{
		Used: n.GetUsed(), Capacity: n.GetCapacity(), Opened: n.GetOpened(), Evicted: n.GetEvicted(), Exhausted: n.GetExhausted(),
	}
}

func decodeReason(r *steelyardv1.Reason) model.Reason {
	return model.Reason{Name: r.GetName(), Packets: r.GetPackets()}
}

func decodeCounters(c *steelyardv1.Counters) model.Counters {
	return model.Counters{Packets: c.GetPackets(), Bytes: c.GetBytes(), Connections: c.GetConnections()}
}

func (d *decoder) backendStatus(b *steelyardv1.BackendStatus) model.BackendStatus {
	hop := b.GetNextHop()
	return model.BackendStatus{
		Backend: d.backend(b.Backend), Health: decodeWord(d, b.Health, parseHealth), Since: decodeTime(b.SinceUnixNanoseconds),
		Checks: list(b.Checks, d.checkStatus),
		Slots:  b.Slots,
		Flows:  b.Flows, KeepsFlows: b.KeepsFlows, Named: b.Named,
		Counted: b.Counted, Full: b.Full,
		NextHop:  model.NextHop{Interface: hop.GetInterface(), VLAN: decodeNumber[uint16](d, "VLAN tag", hop.GetVlan()), MAC: hop.GetMac(), Problem: hop.GetProblem()},
		Counters: decodeCounters(b.Counters),
	}
}

func (d *decoder) checkStatus(c *steelyardv1.CheckStatus) model.CheckStatus {
	return model.CheckStatus{
		Name: c.Name, Health: decodeWord(d, c.Health, parseHealth), Result: c.Result, Detail: c.Detail, Reason: c.Reason,
		Since: decodeTime(c.SinceUnixNanoseconds), Checked: decodeTime(c.CheckedUnixNanoseconds),
		Duration: time.Duration(c.DurationNanoseconds),
	}
}

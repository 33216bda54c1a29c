package cli

import (
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The types of this file are what -o json and -o yaml print. The names of their
// fields are stable: fields may be added, none is renamed or removed. Ports are in
// host byte order; port 0 of an endpoint is any port, of a backend the port that the
// client addressed, of a check the backend's. Settings in time are written as the
// flags take them ("2s"); a time that never was is left out.

type countersView struct {
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	Connections uint64 `json:"connections"`
}

type endpointView struct {
	Address string `json:"address"`
	// FirstPort and LastPort are the same for one port.
	FirstPort uint16 `json:"first_port"`
	LastPort  uint16 `json:"last_port"`
}

type affinityView struct {
	// Scope is "flow", "source" or "pool".
	Scope      string `json:"scope"`
	IPv4Prefix uint8  `json:"ipv4_prefix"`
	IPv6Prefix uint8  `json:"ipv6_prefix"`
}

type vipView struct {
	Name string `json:"name"`
	// Address and Port are those of the first endpoint; its first port, if it has
	// a range.
	Address   string         `json:"address"`
	Protocol  string         `json:"protocol"`
	Port      uint16         `json:"port"`
	Endpoints []endpointView `json:"endpoints"`
	Mode      string         `json:"mode"`
	Pool      string         `json:"pool"`
	// Tracking says which flows are remembered: "flux", "always" or "none".
	Tracking    string       `json:"tracking"`
	IdleTimeout string       `json:"idle_timeout"`
	Affinity    affinityView `json:"affinity"`
	// Fragments is "follow" or "hash".
	Fragments string `json:"fragments"`
	// MSS is 0 where clients may ask for any.
	MSS  uint16 `json:"mss"`
	QUIC bool   `json:"quic"`
	// SYNCookies is how many SYNs in a second may begin connections, 0 where all may.
	SYNCookies uint32 `json:"syn_cookies"`
	// Deny and Allow name source lists.
	Deny  string `json:"deny,omitempty"`
	Allow string `json:"allow,omitempty"`
	// Available while a backend takes new flows.
	Available bool `json:"available"`
	// InFlux while flows may be on the pool that the VIP had before.
	InFlux bool `json:"in_flux"`
	// Flows that the flow table holds.
	Flows uint64 `json:"flows"`
	// Dropped are its packets that were screened or denied, by reason.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
	// Limits are left out where there are none.
	Limits *limitsView `json:"limits,omitempty"`
	countersView
}

type poolView struct {
	Name      string `json:"name"`
	TableSize uint32 `json:"table_size"`
	OnAllDown string `json:"on_all_down"`
	DownGrace string `json:"down_grace"`
	SlowStart string `json:"slow_start"`
	// SlotsInFlux of the table's slots.
	SlotsInFlux uint32        `json:"slots_in_flux"`
	VIPs        []string      `json:"vips"`
	Checks      []checkView   `json:"checks"`
	Backends    []backendView `json:"backends"`
}

type checkView struct {
	Pool     string `json:"pool"`
	Name     string `json:"name"`
	Type     string `json:"type"`
	Port     uint16 `json:"port"`
	Interval string `json:"interval"`
	Timeout  string `json:"timeout"`
	Rise     uint32 `json:"rise"`
	Fall     uint32 `json:"fall"`
	Jitter   uint32 `json:"jitter"`
	Host     string `json:"host,omitempty"`
	Path     string `json:"path,omitempty"`
	Status   uint32 `json:"status,omitempty"`
	Body     string `json:"body,omitempty"`
	Send     string `json:"send,omitempty"`
}

type backendView struct {
	Pool    string `json:"pool"`
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	Weight  uint32 `json:"weight"`
	State   string `json:"state"`
	// MaxConnections that it may have at once, 0: any number; Full: it has no room for
	// others. CountedConnections are those that the last sweep found.
	MaxConnections     uint32 `json:"max_connections"`
	CountedConnections uint64 `json:"counted_connections"`
	Full               bool   `json:"full"`
	// ServerIDs are written "CONFIG:HEX".
	ServerIDs []string `json:"server_ids"`
	// Drain says how draining ends; only draining backends have it.
	Drain  *drainView `json:"drain,omitempty"`
	Health string     `json:"health"`
	// Since is when Health last changed.
	Since time.Time `json:"since,omitzero"`
	Slots uint32    `json:"slots"`
	// Share is the part of the pool's slots that it owns, 0 to 1.
	Share   float64     `json:"share"`
	NextHop nextHopView `json:"next_hop"`
	// Flows that the flow table holds: of slots in flux, unless all are tracked.
	Flows uint64 `json:"flows"`
	// KeepsFlows while it gets the packets of the flows that it has.
	KeepsFlows bool `json:"keeps_flows"`
	// SilentFlows: it may have flows besides that have not been heard of yet.
	SilentFlows bool `json:"silent_flows"`
	countersView
	Checks []resultView `json:"checks"`
}

type drainView struct {
	Since    time.Time `json:"since,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Remove: it is removed in the end, not disabled.
	Remove bool `json:"remove"`
}

type nextHopView struct {
	Interface string `json:"interface,omitempty"`
	VLAN      uint16 `json:"vlan,omitempty"`
	MAC       string `json:"mac,omitempty"`
	// Problem says why the backend cannot be reached.
	Problem string `json:"problem,omitempty"`
}

// resultView is what a check found of a backend.
type resultView struct {
	Name   string `json:"name"`
	Health string `json:"health"`
	// Result in HAProxy's words: "L4OK", "L7STS".
	Result  string    `json:"result,omitempty"`
	Detail  string    `json:"detail,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	Checked time.Time `json:"checked,omitzero"`
	// Duration of the last probe.
	DurationSeconds float64 `json:"duration_seconds"`
}

type statusView struct {
	Version string    `json:"version"`
	Started time.Time `json:"started,omitzero"`
	// Revision of the desired state, and the one that the data plane has.
	Revision        uint64 `json:"revision"`
	AppliedRevision uint64 `json:"applied_revision"`
	// Error says why the latter lags.
	Error      string          `json:"error,omitempty"`
	Interfaces []interfaceView `json:"interfaces"`
	VIPs       []vipView       `json:"vips"`
	Pools      []poolView      `json:"pools"`
	// Reasons counts every way out of the packet path.
	Reasons       map[string]uint64 `json:"reasons"`
	Maps          []mapView         `json:"maps"`
	FlowTable     flowTableView     `json:"flow_table"`
	FragmentTable fragmentTableView `json:"fragment_table"`
	NATPorts      natPortsView      `json:"nat_ports"`
}

// natPortsView is what connections of fullnat have of the ports that they come from.
type natPortsView struct {
	// Used ports of Capacity.
	Used     uint64 `json:"used"`
	Capacity uint64 `json:"capacity"`
	// Opened connections since the start; Evicted gave their port to others. Exhausted
	// are packets that began none for want of a port.
	Opened    uint64 `json:"opened"`
	Evicted   uint64 `json:"evicted"`
	Exhausted uint64 `json:"exhausted"`
}

// flowTableView is what the last sweep found, and what happened since the start.
type flowTableView struct {
	// Live entries of Capacity.
	Live        uint64 `json:"live"`
	Capacity    uint64 `json:"capacity"`
	SlotsInFlux uint64 `json:"slots_in_flux"`
	// Sweeps so far; the last one looked at SweepEntries in SweepSeconds of
	// processor time.
	Sweeps       uint64  `json:"sweeps"`
	SweepEntries uint64  `json:"sweep_entries"`
	SweepSeconds float64 `json:"sweep_seconds"`
	Remembered   uint64  `json:"remembered"`
	Evicted      uint64  `json:"evicted"`
	// EvictedConnections and Unremembered are flows that may break at the next
	// change: the table is too small.
	EvictedConnections uint64 `json:"evicted_connections"`
	Unremembered       uint64 `json:"unremembered"`
}

// fragmentTableView is what happened to it since it was made: packets in fragments,
// and those that gave way while fragments of theirs might still come.
type fragmentTableView struct {
	Remembered uint64 `json:"remembered"`
	Evicted    uint64 `json:"evicted"`
}

type interfaceView struct {
	Name    string `json:"name"`
	Mode    string `json:"mode"`
	Warning string `json:"warning,omitempty"`
}

type mapView struct {
	Name     string `json:"name"`
	Used     uint64 `json:"used"`
	Capacity uint64 `json:"capacity"`
	Bytes    uint64 `json:"bytes"`
}

// changeView is the outcome of a change.
type changeView struct {
	Revision uint64 `json:"revision"`
	// Applied is false while the data plane cannot take the change yet; Error says why.
	Applied bool   `json:"applied"`
	Error   string `json:"error,omitempty"`
	Summary string `json:"summary"`
	// Draining are the backends that a drain or a removal left draining.
	Draining []string `json:"draining,omitempty"`
}

// views converts every element; its result is never nil, so that it prints as [].
func views[From, To any](from []From, convert func(From) To) []To {
	to := make([]To, len(from))
	for i, v := range from {
		to[i] = convert(v)
	}
	return to
}

// viewReasons are the reasons that packets have had.
func viewReasons(reasons []model.Reason) map[string]uint64 {
	view := map[string]uint64{}
	for _, r := range reasons {
		if r.Packets > 0 {
			view[r.Name] = r.Packets
		}
	}
	return view
}

func viewCounters(c model.Counters) countersView {
	return countersView{Packets: c.Packets, Bytes: c.Bytes, Connections: c.Connections}
}

func viewVIP(v model.VIPStatus) vipView {
	view := vipView{
		Name: v.Name, Protocol: v.Protocol.String(),
		Endpoints: views(v.Endpoints, func(e model.Endpoint) endpointView {
			return endpointView{e.Address.String(), e.Ports.First, e.Ports.Last}
		}),
		Mode: v.Mode.String(), Pool: v.Pool, Tracking: v.Tracking.String(), IdleTimeout: span(v.IdleTimeout),
		Affinity:  affinityView{v.Affinity.Scope.String(), v.Affinity.IPv4Prefix, v.Affinity.IPv6Prefix},
		Fragments: v.Fragments.String(), MSS: v.MSS, QUIC: v.QUIC, SYNCookies: v.SYNCookies,
		Deny: v.Sources.Deny, Allow: v.Sources.Allow, Dropped: viewReasons(v.Dropped), Limits: viewLimits(&v),
		Available: v.Available, InFlux: v.InFlux, Flows: v.Flows, countersView: viewCounters(v.Counters),
	}
	if len(view.Endpoints) > 0 {
		view.Address, view.Port = view.Endpoints[0].Address, view.Endpoints[0].FirstPort
	}
	return view
}

func viewCheck(pool string, c model.Check) checkView {
	return checkView{
		Pool: pool, Name: c.Name, Type: c.Type.String(), Port: c.Port,
		Interval: c.Interval.String(), Timeout: c.Timeout.String(), Rise: c.Rise, Fall: c.Fall, Jitter: c.Jitter,
		Host: c.Host, Path: c.Path, Status: c.Status, Body: c.Body, Send: c.Send,
	}
}

func viewBackend(p *model.PoolStatus, b model.BackendStatus) backendView {
	view := backendView{
		Pool: p.Name, Address: b.Address.String(), Port: b.Port, Weight: b.Weight, State: b.State.String(),
		MaxConnections: b.MaxConnections, CountedConnections: b.Counted, Full: b.Full,
		ServerIDs: serverIDs(b),
		Health:    b.Health.String(), Since: b.Since.UTC(), Slots: b.Slots, Share: share(p, b),
		NextHop: nextHopView(b.NextHop),
		Flows:   b.Flows, KeepsFlows: b.KeepsFlows, SilentFlows: b.Named,
		countersView: viewCounters(b.Counters),
		Checks:       views(b.Checks, viewResult),
	}
	if b.State == model.Draining {
		view.Drain = &drainView{b.Drain.Since.UTC(), b.Drain.Deadline.UTC(), b.Drain.Remove}
	}
	return view
}

// flows of all backends of a pool.
func (p poolView) flows() uint64 {
	var n uint64
	for _, b := range p.Backends {
		n += b.Flows
	}
	return n
}

func share(p *model.PoolStatus, b model.BackendStatus) float64 {
	if p.TableSize == 0 {
		return 0
	}
	return float64(b.Slots) / float64(p.TableSize)
}

func viewResult(c model.CheckStatus) resultView {
	return resultView{
		Name: c.Name, Health: c.Health.String(), Result: c.Result, Detail: c.Detail, Reason: c.Reason,
		Since: c.Since.UTC(), Checked: c.Checked.UTC(), DurationSeconds: c.Duration.Seconds(),
	}
}

package cli

import (
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The types of this file are what -o json and -o yaml print. The names of their
// fields are stable: fields may be added, none is renamed or removed. Ports are in
// host byte order; port 0 of a VIP is any port, of a backend the port that the
// client addressed, of a check the backend's. Settings in time are written as the
// flags take them ("2s"); a time that never was is left out.

type countersView struct {
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	Connections uint64 `json:"connections"`
}

type vipView struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
	Mode     string `json:"mode"`
	Pool     string `json:"pool"`
	// Available while a backend takes new flows.
	Available bool `json:"available"`
	countersView
}

type poolView struct {
	Name      string        `json:"name"`
	TableSize uint32        `json:"table_size"`
	OnAllDown string        `json:"on_all_down"`
	VIPs      []string      `json:"vips"`
	Checks    []checkView   `json:"checks"`
	Backends  []backendView `json:"backends"`
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
	Health  string `json:"health"`
	// Since is when Health last changed.
	Since time.Time `json:"since,omitzero"`
	Slots uint32    `json:"slots"`
	// Share is the part of the pool's slots that it owns, 0 to 1.
	Share   float64     `json:"share"`
	NextHop nextHopView `json:"next_hop"`
	countersView
	Checks []resultView `json:"checks"`
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
	Reasons map[string]uint64 `json:"reasons"`
	Maps    []mapView         `json:"maps"`
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
}

// views converts every element; its result is never nil, so that it prints as [].
func views[From, To any](from []From, convert func(From) To) []To {
	to := make([]To, len(from))
	for i, v := range from {
		to[i] = convert(v)
	}
	return to
}

func viewCounters(c model.Counters) countersView {
	return countersView{Packets: c.Packets, Bytes: c.Bytes, Connections: c.Connections}
}

func viewVIP(v model.VIPStatus) vipView {
	return vipView{
		Name: v.Name, Address: v.Address.String(), Protocol: v.Protocol.String(), Port: v.Port,
		Mode: v.Mode.String(), Pool: v.Pool, Available: v.Available, countersView: viewCounters(v.Counters),
	}
}

func viewCheck(pool string, c model.Check) checkView {
	return checkView{
		Pool: pool, Name: c.Name, Type: c.Type.String(), Port: c.Port,
		Interval: c.Interval.String(), Timeout: c.Timeout.String(), Rise: c.Rise, Fall: c.Fall, Jitter: c.Jitter,
		Host: c.Host, Path: c.Path, Status: c.Status, Body: c.Body, Send: c.Send,
	}
}

func viewBackend(p *model.PoolStatus, b model.BackendStatus) backendView {
	return backendView{
		Pool: p.Name, Address: b.Address.String(), Port: b.Port, Weight: b.Weight, State: b.State.String(),
		Health: b.Health.String(), Since: b.Since.UTC(), Slots: b.Slots, Share: share(p, b),
		NextHop:      nextHopView(b.NextHop),
		countersView: viewCounters(b.Counters),
		Checks:       views(b.Checks, viewResult),
	}
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

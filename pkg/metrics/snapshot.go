package metrics

import (
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// snapshot is one status as a collector.
type snapshot struct {
	status  model.Status
	version string
}

// Describe sends nothing: which series there are depends on the status.
func (s snapshot) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (s snapshot) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch}
	s.node(e)
	s.vips(e)
	s.pools(e)
	s.checks(e)
	s.dataplane(e)
	s.flows(e)
}

// emitter sends metrics.
type emitter struct{ ch chan<- prometheus.Metric }

// series adds one sample to a family, with a value for each of its labels.
type series func(value float64, labels ...string)

func (e emitter) counter(name, help string, labels ...string) series {
	return e.family(prometheus.CounterValue, name, help, labels)
}

func (e emitter) gauge(name, help string, labels ...string) series {
	return e.family(prometheus.GaugeValue, name, help, labels)
}

func (e emitter) family(kind prometheus.ValueType, name, help string, labels []string) series {
	desc := prometheus.NewDesc("steelyard_"+name, help, labels, nil)
	return func(value float64, values ...string) {
		metric, err := prometheus.NewConstMetric(desc, kind, value, values...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		e.ch <- metric
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s snapshot) node(e emitter) {
	e.gauge("build_info", "Always 1; its labels say what is running.", "version", "goversion")(1, s.version, runtime.Version())
	if !s.status.Started.IsZero() {
		e.gauge("start_time_seconds", "When the daemon started, in seconds since 1970.")(float64(s.status.Started.UnixNano()) / 1e9)
	}
	e.gauge("desired_revision", "Revision of the desired state.")(float64(s.status.Revision))
	e.gauge("applied_revision", "Revision that the data plane has.")(float64(s.status.Applied))
	e.gauge("apply_error", "1 while the data plane cannot be brought to the desired state.")(number(s.status.Error != ""))
	attached := e.gauge("interface_attached", "Always 1; the interfaces that the program is attached to, and how (native or generic).", "interface", "mode")
	for _, i := range s.status.Interfaces {
		attached(1, i.Name, i.Mode)
	}
}

func (s snapshot) vips(e emitter) {
	packets := e.counter("vip_packets_total", "Packets that arrived for a VIP, dropped ones included.", "vip")
	bytes := e.counter("vip_bytes_total", "Bytes that arrived for a VIP, from the IP header on, before any encapsulation.", "vip")
	connections := e.counter("vip_connections_total", "Connections asked for of a VIP: TCP SYNs and QUIC Initials.", "vip")
	available := e.gauge("vip_available", "1 while at least one backend takes new flows.", "vip")
	flows := e.gauge("vip_flows", "Flows of a VIP that the flow table holds.", "vip")
	influx := e.gauge("vip_in_flux", "1 while flows may be where the VIP's pool or affinity had them before.", "vip")
	dropped := e.counter("vip_dropped_total", "Packets of a VIP that were dropped because no host sends such, by its source lists, or by its limits.", "vip", "reason")
	observed := e.counter("vip_observed_total", "Packets of a VIP that limits which only observe would have dropped.", "vip", "reason")
	forgotten := e.counter("vip_sources_forgotten_total", "Sources of a VIP whose limits began anew for want of room before their time.", "vip")
	info := e.gauge("vip_info", "Always 1; what a VIP carries, how it is forwarded, and the pool that serves it.", "vip", "protocol", "mode", "pool")
	endpoint := e.gauge("vip_endpoint_info", "Always 1; an address of a VIP and its ports there: a number, a range or any.", "vip", "address", "ports", "protocol")
	for _, v := range s.status.VIPs {
		packets(float64(v.Packets), v.Name)
		bytes(float64(v.Bytes), v.Name)
		connections(float64(v.Connections), v.Name)
		available(number(v.Available), v.Name)
		flows(float64(v.Flows), v.Name)
		influx(number(v.InFlux), v.Name)
		guarded := v.Limits.Any() || v.Sources != (model.Sources{})
		for _, r := range v.Dropped {
			if guarded || r.Packets > 0 {
				dropped(float64(r.Packets), v.Name, r.Name)
			}
		}
		if v.Limits.Any() {
			for _, r := range v.Observed {
				observed(float64(r.Packets), v.Name, r.Name)
			}
			forgotten(float64(v.Forgotten), v.Name)
		}
		info(1, v.Name, v.Protocol.String(), v.Mode.String(), v.Pool)
		for _, at := range v.Endpoints {
			endpoint(1, v.Name, at.Address.String(), at.Ports.String(), v.Protocol.String())
		}
	}
}

func (s snapshot) pools(e emitter) {
	packets := e.counter("backend_packets_total", "Packets forwarded to a backend.", "pool", "backend")
	bytes := e.counter("backend_bytes_total", "Bytes forwarded to a backend, from the IP header on, before any encapsulation.", "pool", "backend")
	connections := e.counter("backend_connections_total", "Connections opened to a backend: TCP SYNs and QUIC Initials forwarded.", "pool", "backend")
	up := e.gauge("backend_up", "1 while all checks of a backend pass.", "pool", "backend")
	health := e.gauge("backend_health", "1 for the health that a backend has, 0 for the others.", "pool", "backend", "health")
	state := e.gauge("backend_state", "1 for the administrative state that a backend has, 0 for the others.", "pool", "backend", "state")
	weight := e.gauge("backend_weight", "Weight of a backend.", "pool", "backend")
	slots := e.gauge("backend_slots", "Slots that a backend owns in its pool's table.", "pool", "backend")
	resolved := e.gauge("backend_resolved", "1 while the next hop to a backend is known.", "pool", "backend")
	flows := e.gauge("backend_flows", "Flows of a backend that the flow table holds.", "pool", "backend")
	keeps := e.gauge("backend_keeps_flows", "1 while a backend gets the packets of the flows that it has.", "pool", "backend")
	most := e.gauge("backend_max_connections", "Connections that a backend may have at once; 0: any number.", "pool", "backend")
	counted := e.gauge("backend_counted_connections", "Connections of a backend that count against its limit; 0 without one.", "pool", "backend")
	full := e.gauge("backend_full", "1 while a backend has as many connections as it may have, and others get new ones.", "pool", "backend")
	size := e.gauge("pool_slots", "Slots of a pool's table.", "pool")
	influx := e.gauge("pool_slots_in_flux", "Slots of a pool's table that are in flux.", "pool")
	for _, p := range s.status.Pools {
		size(float64(p.TableSize), p.Name)
		influx(float64(p.SlotsInFlux), p.Name)
		for _, b := range p.Backends {
			id := b.String()
			packets(float64(b.Packets), p.Name, id)
			bytes(float64(b.Bytes), p.Name, id)
			connections(float64(b.Connections), p.Name, id)
			up(number(b.Health == model.HealthUp), p.Name, id)
			for _, h := range []model.Health{model.HealthUnknown, model.HealthUp, model.HealthDown} {
				health(number(b.Health == h), p.Name, id, h.String())
			}
			for _, a := range []model.AdminState{model.Enabled, model.Draining, model.Disabled} {
				state(number(b.State == a), p.Name, id, a.String())
			}
			weight(float64(b.Weight), p.Name, id)
			slots(float64(b.Slots), p.Name, id)
			resolved(number(b.NextHop.MAC != ""), p.Name, id)
			flows(float64(b.Flows), p.Name, id)
			keeps(number(b.KeepsFlows), p.Name, id)
			most(float64(b.MaxConnections), p.Name, id)
			counted(float64(b.Counted), p.Name, id)
			full(number(b.Full), p.Name, id)
		}
	}
}

func (s snapshot) checks(e emitter) {
	up := e.gauge("check_up", "1 while a check of a backend passes.", "pool", "backend", "check")
	duration := e.gauge("check_duration_seconds", "How long the last probe took, in seconds.", "pool", "backend", "check")
	result := e.gauge("check_result", "Always 1; the result of the last probe in HAProxy's words.", "pool", "backend", "check", "result")
	probed := e.gauge("check_last_probe_timestamp_seconds", "When the last probe ended, in seconds since 1970.", "pool", "backend", "check")
	changed := e.gauge("check_last_change_timestamp_seconds", "When the health last changed, in seconds since 1970.", "pool", "backend", "check")
	for _, p := range s.status.Pools {
		for _, b := range p.Backends {
			for _, c := range b.Checks {
				values := []string{p.Name, b.String(), c.Name}
				up(number(c.Health == model.HealthUp), values...)
				if !c.Since.IsZero() {
					changed(float64(c.Since.UnixNano())/1e9, values...)
				}
				if !c.Checked.IsZero() {
					duration(c.Duration.Seconds(), values...)
					probed(float64(c.Checked.UnixNano())/1e9, values...)
					result(1, append(values, c.Result)...)
				}
			}
		}
	}
}

func (s snapshot) dataplane(e emitter) {
	exits := e.counter("exits_total", "Packets by the way they left the program, and its XDP verdict: pass, tx, redirect or drop.", "reason", "verdict")
	for _, r := range s.status.Reasons {
		verdict, _, _ := strings.Cut(r.Name, "_")
		exits(float64(r.Packets), r.Name, verdict)
	}
	entries := e.gauge("map_entries", "Entries of a map of the data plane that are in use.", "map")
	capacity := e.gauge("map_capacity", "Entries that a map of the data plane has room for.", "map")
	bytes := e.gauge("map_bytes", "Memory of a map of the data plane, in bytes.", "map")
	for _, m := range s.status.Maps {
		entries(float64(m.Used), m.Name)
		capacity(float64(m.Capacity), m.Name)
		bytes(float64(m.Bytes), m.Name)
	}
}

func (s snapshot) flows(e emitter) {
	f := s.status.Flows
	e.gauge("flow_table_live", "Entries of the flow table in use, as of the last sweep.")(float64(f.Live))
	e.gauge("flow_table_capacity", "Entries that the flow table has room for.")(float64(f.Capacity))
	e.counter("flow_sweeps_total", "Sweeps of the flow table.")(float64(f.Sweeps))
	e.gauge("flow_sweep_entries", "Entries that the last sweep looked at.")(float64(f.Entries))
	e.gauge("flow_sweep_seconds", "Processor time that the last sweep took.")(f.Took.Seconds())
	e.counter("flow_remembered_total", "Flows that were entered into the flow table.")(float64(f.Remembered))
	e.counter("flow_evicted_total", "Entries that gave way to others although their flow could be found again.")(float64(f.Evicted))
	e.counter("flow_evicted_connections_total", "Connections that gave way to others and may break at the next change. Alarm: the flow table is too small.")(float64(f.EvictedConnections))
	n := s.status.NAT
	e.gauge("nat_ports_used", "Ports that connections of fullnat have, over all addresses and both protocols, as of the last sweep.")(float64(n.Used))
	e.gauge("nat_ports_capacity", "Ports that connections of fullnat may have.")(float64(n.Capacity))
	e.counter("nat_connections_total", "Connections of fullnat that have begun.")(float64(n.Opened))
	e.counter("nat_evicted_total", "Connections of fullnat that gave their port to another, for they had no answer yet, or had ended.")(float64(n.Evicted))
	e.counter("nat_exhausted_total", "Packets that began no connection of fullnat for want of a port. Alarm: there are too few addresses.")(float64(n.Exhausted))
	e.counter("flow_unremembered_total", "Flows that the flow table had no room for and that may break at the next change. Alarm: the flow table is too small.")(float64(f.Unremembered))
	fragments := s.status.Fragments
	e.counter("fragmented_remembered_total", "Packets in fragments that were entered into the fragment table.")(float64(fragments.Remembered))
	e.counter("fragmented_evicted_total", "Packets in fragments that gave way to others while fragments of theirs might still come.")(float64(fragments.Evicted))
}

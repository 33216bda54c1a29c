package api

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// field is the place that errors name, such as `pool "web", backend 10.0.1.10`.
type field string

func (at field) fail(part, format string, args ...any) error {
	return &model.FieldError{Path: string(at) + ", " + part, Reason: fmt.Sprintf(format, args...)}
}

func (at field) port(dst *uint16, given *uint32) error {
	if given == nil {
		return nil
	}
	if *given > math.MaxUint16 {
		return at.fail("port", "%d is out of range 0 to %d", *given, math.MaxUint16)
	}
	*dst = uint16(*given)
	return nil
}

// narrow stores a number that the API has more bits for than the state.
func narrow[T uint8 | uint16](at field, part string, dst *T, given *uint32, low, high T) error {
	if given == nil {
		return nil
	}
	if uint32(T(*given)) != *given {
		return at.fail(part, "%d is out of range %d to %d", *given, low, high)
	}
	*dst = T(*given)
	return nil
}

func (at field) endpoints(given []*steelyardv1.Endpoint) ([]model.Endpoint, error) {
	var all []model.Endpoint
	for _, g := range given {
		e, err := at.endpoint(g)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func (at field) endpoint(given *steelyardv1.Endpoint) (model.Endpoint, error) {
	addr, err := netip.ParseAddr(given.GetAddress())
	if err != nil {
		return model.Endpoint{}, at.fail("endpoints", "%q is not an address", given.GetAddress())
	}
	first, last := given.GetFirstPort(), given.GetLastPort()
	if last == 0 {
		last = first
	}
	if first > math.MaxUint16 || last > math.MaxUint16 || first > last || first == 0 && last != 0 {
		return model.Endpoint{}, at.fail("endpoints", "ports %d to %d of %s are no range; want 1 to %d, the first no higher than the last, or 0 for any", first, last, addr, math.MaxUint16)
	}
	return model.Endpoint{Address: addr, Ports: model.PortRange{First: uint16(first), Last: uint16(last)}}, nil
}

// word stores a given word of a fixed set.
func word[T any](at field, part string, dst *T, given *string, parse func(string) (T, error)) error {
	if given == nil {
		return nil
	}
	value, err := parse(*given)
	if err != nil {
		return at.fail(part, "%v", err)
	}
	*dst = value
	return nil
}

func set[T any](dst, given *T) {
	if given != nil {
		*dst = *given
	}
}

// setList stores the name of a source list, or that there is none.
func setList(dst, given *string) {
	set(dst, given)
	if *dst == model.NoSourceList {
		*dst = ""
	}
}

func setDuration(dst *time.Duration, given *int64) {
	if given != nil {
		*dst = time.Duration(*given)
	}
}

func setVIPFields(v *model.VIP, fields *steelyardv1.VIPFields) error {
	at := field(fmt.Sprintf("VIP %q", v.Name))
	set(&v.Pool, fields.Pool)
	set(&v.QUIC, fields.Quic)
	set(&v.SYNCookies, fields.SynCookies)
	setList(&v.Sources.Deny, fields.Deny)
	setList(&v.Sources.Allow, fields.Allow)
	setDuration(&v.IdleTimeout, fields.IdleTimeoutNanoseconds)
	return errors.Join(
		setEndpoints(at, v, fields),
		word(at, "protocol", &v.Protocol, fields.Protocol, model.ParseProtocol),
		word(at, "mode", &v.Mode, fields.Mode, model.ParseMode),
		word(at, "tracking", &v.Tracking, fields.Tracking, model.ParseTracking),
		word(at, "affinity", &v.Affinity.Scope, fields.Affinity, model.ParseAffinityScope),
		narrow(at, "affinity_ipv4_prefix", &v.Affinity.IPv4Prefix, fields.AffinityIpv4Prefix, 1, 32),
		narrow(at, "affinity_ipv6_prefix", &v.Affinity.IPv6Prefix, fields.AffinityIpv6Prefix, 1, 128),
		word(at, "fragments", &v.Fragments, fields.Fragments, model.ParseFragmentPolicy),
		narrow(at, "mss", &v.MSS, fields.Mss, model.MinMSS, model.MaxMSS),
		setLimits(at, &v.Limits, fields),
	)
}

func setLimits(at field, l *model.Limits, fields *steelyardv1.VIPFields) error {
	return errors.Join(
		word(at, "limit_connections", &l.Connections, fields.LimitConnections, model.ParseLimit),
		word(at, "limit_packets", &l.Packets, fields.LimitPackets, model.ParseLimit),
		word(at, "limit_source_connections", &l.SourceConnections, fields.LimitSourceConnections, model.ParseLimit),
		word(at, "limit_source_packets", &l.SourcePackets, fields.LimitSourcePackets, model.ParseLimit),
		narrow(at, "limit_ipv4_prefix", &l.IPv4Prefix, fields.LimitIpv4Prefix, 1, 32),
		narrow(at, "limit_ipv6_prefix", &l.IPv6Prefix, fields.LimitIpv6Prefix, 1, 128),
	)
}

// setEndpoints replaces a VIP's endpoints, or adds and takes away some.
func setEndpoints(at field, v *model.VIP, fields *steelyardv1.VIPFields) error {
	all, errAll := at.endpoints(fields.Endpoints)
	added, errAdded := at.endpoints(fields.AddEndpoints)
	removed, errRemoved := at.endpoints(fields.RemoveEndpoints)
	if err := errors.Join(errAll, errAdded, errRemoved); err != nil {
		return err
	}
	if len(all) > 0 {
		v.Endpoints = all
	}
	v.Endpoints = append(v.Endpoints, added...)
	for _, e := range removed {
		i := slices.Index(v.Endpoints, e)
		if i < 0 {
			known := list(v.Endpoints, model.Endpoint.String)
			return &model.NotFoundError{Kind: "endpoint of VIP " + v.Name, Name: e.String(), Near: model.Near(e.String(), known)}
		}
		v.Endpoints = slices.Delete(v.Endpoints, i, i+1)
	}
	return nil
}

func setPoolFields(p *model.Pool, fields *steelyardv1.PoolFields) error {
	set(&p.TableSize, fields.TableSize)
	setDuration(&p.DownGrace, fields.DownGraceNanoseconds)
	setDuration(&p.SlowStart, fields.SlowStartNanoseconds)
	return word(field(fmt.Sprintf("pool %q", p.Name)), "on_all_down", &p.OnAllDown, fields.OnAllDown, model.ParseOnAllDown)
}

func setBackendFields(pool string, b *model.Backend, fields *steelyardv1.BackendFields, now time.Time) error {
	set(&b.Weight, fields.Weight)
	set(&b.MaxConnections, fields.MaxConnections)
	at, before := atBackend(pool, b.BackendID), b.State
	if err := errors.Join(setServerIDs(at, b, fields.ServerIds), word(at, "state", &b.State, fields.State, model.ParseAdminState)); err != nil {
		return err
	}
	switch {
	case b.State != model.Draining:
		b.Drain = model.Drain{}
	case before != model.Draining:
		b.Drain = model.Drain{Since: now}
	}
	return nil
}

func setServerIDs(at field, b *model.Backend, given *steelyardv1.ServerIDs) error {
	if given == nil {
		return nil
	}
	var all []model.ServerID
	for _, text := range given.Ids {
		id, err := model.ParseServerID(text)
		if err != nil {
			return at.fail("server_id", "%v", err)
		}
		all = append(all, id)
	}
	b.ServerIDs = all
	return nil
}

func atBackend(pool string, id model.BackendID) field {
	return field(fmt.Sprintf("pool %q, backend %s", pool, id))
}

// newCheck starts from the defaults of the check's type and, for the timeout, of
// its interval. What is given is kept as given, zeros too.
func newCheck(pool string, fields *steelyardv1.CheckFields) (model.Check, error) {
	check := model.Check{Name: fields.GetName(), Type: model.CheckTCP}
	at := field(fmt.Sprintf("pool %q, check %q", pool, check.Name))
	if err := word(at, "type", &check.Type, fields.Type, model.ParseCheckType); err != nil {
		return model.Check{}, err
	}
	setDuration(&check.Interval, fields.IntervalNanoseconds)
	check = check.WithDefaults()
	return check, setCheckFields(pool, &check, fields)
}

func setCheckFields(pool string, c *model.Check, fields *steelyardv1.CheckFields) error {
	at := field(fmt.Sprintf("pool %q, check %q", pool, c.Name))
	kind := c.Type
	if err := word(at, "type", &kind, fields.Type, model.ParseCheckType); err != nil {
		return err
	}
	if kind != c.Type {
		// What was asked of the old kind of probe means nothing to the new one.
		c.Type, c.Host, c.Path, c.Status, c.Body, c.Send = kind, "", "", 0, "", ""
		if kind == model.CheckICMP {
			c.Port = 0
		}
		c.Path = c.WithDefaults().Path
	}
	setDuration(&c.Interval, fields.IntervalNanoseconds)
	setDuration(&c.Timeout, fields.TimeoutNanoseconds)
	set(&c.Rise, fields.Rise)
	set(&c.Fall, fields.Fall)
	set(&c.Jitter, fields.Jitter)
	set(&c.Host, fields.Host)
	set(&c.Path, fields.Path)
	set(&c.Status, fields.Status)
	set(&c.Body, fields.Body)
	set(&c.Send, fields.Send)
	return at.port(&c.Port, fields.Port)
}

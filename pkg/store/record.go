package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The records of the state's objects. An object's name is its key and not
// repeated. Field names are part of the schema: renaming one, or adding one that
// an older program must not overlook, raises its version.

type vipRecord struct {
	// Address and Port are in records of schema 1 and 2, instead of Endpoints.
	Address   netip.Addr `json:"address,omitzero"`
	Port      uint16     `json:"port,omitempty"`
	Endpoints []string   `json:"endpoints,omitempty"`
	Protocol  string     `json:"protocol"`
	Mode      string     `json:"mode"`
	Pool      string     `json:"pool"`
	// Tracking and IdleTimeout are not in records of schema 1.
	Tracking    string `json:"tracking"`
	IdleTimeout string `json:"idle_timeout"`
	// Affinity and what follows are not in records of schema 1 and 2.
	Affinity  *affinityRecord `json:"affinity"`
	Fragments string          `json:"fragments"`
	MSS       uint16          `json:"mss,omitempty"`
	QUIC      bool            `json:"quic,omitempty"`
	// SYNCookies came with the modes that translate.
	SYNCookies uint32 `json:"syn_cookies,omitempty"`
	// Sources and Limits are not in records of schema 1 to 3.
	Sources *sourcesRecord `json:"sources,omitempty"`
	Limits  *limitsRecord  `json:"limits,omitempty"`
}

type affinityRecord struct {
	Scope      string `json:"scope"`
	IPv4Prefix uint8  `json:"ipv4_prefix"`
	IPv6Prefix uint8  `json:"ipv6_prefix"`
}

type poolRecord struct {
	TableSize uint32 `json:"table_size"`
	OnAllDown string `json:"on_all_down"`
	// DownGrace and SlowStart are not in records of schema 1.
	DownGrace string          `json:"down_grace"`
	SlowStart string          `json:"slow_start"`
	Checks    []checkRecord   `json:"checks,omitempty"`
	Backends  []backendRecord `json:"backends,omitempty"`
}

type backendRecord struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port,omitempty"`
	Weight  uint32     `json:"weight"`
	State   string     `json:"state"`
	// Drain is nil unless something is known of it.
	Drain     *drainRecord `json:"drain,omitempty"`
	ServerIDs []string     `json:"server_ids,omitempty"`
	// MaxConnections is left out where there is no limit.
	MaxConnections uint32 `json:"max_connections,omitempty"`
}

type drainRecord struct {
	Since    time.Time `json:"since,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
	Remove   bool      `json:"remove,omitempty"`
}

type checkRecord struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Port     uint16 `json:"port,omitempty"`
	Interval string `json:"interval"`
	Timeout  string `json:"timeout"`
	Rise     uint32 `json:"rise"`
	Fall     uint32 `json:"fall"`
	Jitter   uint32 `json:"jitter,omitempty"`
	Host     string `json:"host,omitempty"`
	Path     string `json:"path,omitempty"`
	Status   uint32 `json:"status,omitempty"`
	// Body and Send are base64: JSON text would not keep bytes that are not UTF-8.
	Body []byte `json:"body,omitempty"`
	Send []byte `json:"send,omitempty"`
}

func encodeVIP(v model.VIP) ([]byte, error) {
	return encode(vipRecord{
		Endpoints: texts(v.Endpoints), Protocol: v.Protocol.String(), Mode: v.Mode.String(), Pool: v.Pool,
		Tracking: v.Tracking.String(), IdleTimeout: v.IdleTimeout.String(),
		Affinity:  &affinityRecord{v.Affinity.Scope.String(), v.Affinity.IPv4Prefix, v.Affinity.IPv6Prefix},
		Fragments: v.Fragments.String(), MSS: v.MSS, QUIC: v.QUIC, SYNCookies: v.SYNCookies, Sources: encodeSources(v.Sources), Limits: encodeLimits(v.Limits),
	})
}

func decodeVIP(name string, data []byte) (model.VIP, error) {
	var r vipRecord
	if err := decode(data, &r); err != nil {
		return model.VIP{}, err
	}
	protocol, errProtocol := model.ParseProtocol(r.Protocol)
	mode, errMode := model.ParseMode(r.Mode)
	endpoints, errEndpoints := parseAll(r.Endpoints, model.ParseEndpoint)
	if r.Address.IsValid() {
		endpoints = append(endpoints, model.Endpoint{Address: r.Address, Ports: model.Port(r.Port)})
	}
	v := model.VIP{Name: name, Endpoints: endpoints, Protocol: protocol, Mode: mode, Pool: r.Pool, MSS: r.MSS, QUIC: r.QUIC, SYNCookies: r.SYNCookies, Sources: r.Sources.sources()}
	var errTracking, errIdle, errAffinity, errFragments, errLimits error
	v.Limits, errLimits = r.Limits.limits()
	v.Tracking, errTracking = orDefault(r.Tracking, v.DefaultTracking(), model.ParseTracking)
	v.IdleTimeout, errIdle = orDefault(r.IdleTimeout, model.DefaultIdleTimeout, time.ParseDuration)
	v.Affinity, errAffinity = r.Affinity.affinity()
	v.Fragments, errFragments = orDefault(r.Fragments, model.FragmentsFollow, model.ParseFragmentPolicy)
	return v, errors.Join(errProtocol, errMode, errEndpoints, errTracking, errIdle, errAffinity, errFragments, errLimits)
}

func (r *affinityRecord) affinity() (model.Affinity, error) {
	if r == nil {
		return model.DefaultAffinity(), nil
	}
	scope, err := model.ParseAffinityScope(r.Scope)
	return model.Affinity{Scope: scope, IPv4Prefix: r.IPv4Prefix, IPv6Prefix: r.IPv6Prefix}, err
}

// texts renders every element, and parseAll is its inverse. Of nothing they make nil.
func texts[T fmt.Stringer](list []T) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

func parseAll[T any](list []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, s := range list {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// orDefault reads a field that older records do not have.
func orDefault[T any](field string, absent T, parse func(string) (T, error)) (T, error) {
	if field == "" {
		return absent, nil
	}
	return parse(field)
}

func encodePool(p model.Pool) ([]byte, error) {
	r := poolRecord{
		TableSize: p.TableSize, OnAllDown: p.OnAllDown.String(),
		DownGrace: p.DownGrace.String(), SlowStart: p.SlowStart.String(),
	}
	for _, b := range p.Backends {
		r.Backends = append(r.Backends, encodeBackend(b))
	}
	for _, c := range p.Checks {
		if !utf8.ValidString(c.Host) || !utf8.ValidString(c.Path) {
			return nil, fmt.Errorf("check %q: host and path must be UTF-8", c.Name)
		}
		r.Checks = append(r.Checks, checkRecord{
			Name: c.Name, Type: c.Type.String(), Port: c.Port,
			Interval: c.Interval.String(), Timeout: c.Timeout.String(),
			Rise: c.Rise, Fall: c.Fall, Jitter: c.Jitter,
			Host: c.Host, Path: c.Path, Status: c.Status, Body: []byte(c.Body), Send: []byte(c.Send),
		})
	}
	return encode(r)
}

func encodeBackend(b model.Backend) backendRecord {
	r := backendRecord{Address: b.Address, Port: b.Port, Weight: b.Weight, State: b.State.String(), ServerIDs: texts(b.ServerIDs), MaxConnections: b.MaxConnections}
	if b.Drain != (model.Drain{}) {
		r.Drain = &drainRecord{b.Drain.Since.UTC(), b.Drain.Deadline.UTC(), b.Drain.Remove}
	}
	return r
}

func (r backendRecord) backend() (model.Backend, error) {
	id := model.BackendID{Address: r.Address, Port: r.Port}
	state, errState := model.ParseAdminState(r.State)
	serverIDs, errIDs := parseAll(r.ServerIDs, model.ParseServerID)
	if err := errors.Join(errState, errIDs); err != nil {
		return model.Backend{}, fmt.Errorf("backend %s: %w", id, err)
	}
	b := model.Backend{BackendID: id, Weight: r.Weight, State: state, ServerIDs: serverIDs, MaxConnections: r.MaxConnections}
	if r.Drain != nil {
		b.Drain = model.Drain(*r.Drain)
	}
	return b, nil
}

func decodePool(name string, data []byte) (model.Pool, error) {
	var r poolRecord
	if err := decode(data, &r); err != nil {
		return model.Pool{}, err
	}
	onAllDown, errOnAllDown := model.ParseOnAllDown(r.OnAllDown)
	downGrace, errDownGrace := orDefault(r.DownGrace, model.DefaultDownGrace, time.ParseDuration)
	slowStart, errSlowStart := orDefault(r.SlowStart, 0, time.ParseDuration)
	if err := errors.Join(errOnAllDown, errDownGrace, errSlowStart); err != nil {
		return model.Pool{}, err
	}
	p := model.Pool{Name: name, TableSize: r.TableSize, OnAllDown: onAllDown, DownGrace: downGrace, SlowStart: slowStart}
	for _, record := range r.Backends {
		b, err := record.backend()
		if err != nil {
			return model.Pool{}, err
		}
		p.Backends = append(p.Backends, b)
	}
	for _, c := range r.Checks {
		check, err := c.check()
		if err != nil {
			return model.Pool{}, fmt.Errorf("check %q: %w", c.Name, err)
		}
		p.Checks = append(p.Checks, check)
	}
	return p, nil
}

func (r checkRecord) check() (model.Check, error) {
	kind, errType := model.ParseCheckType(r.Type)
	interval, errInterval := time.ParseDuration(r.Interval)
	timeout, errTimeout := time.ParseDuration(r.Timeout)
	return model.Check{
		Name: r.Name, Type: kind, Port: r.Port, Interval: interval, Timeout: timeout,
		Rise: r.Rise, Fall: r.Fall, Jitter: r.Jitter,
		Host: r.Host, Path: r.Path, Status: r.Status, Body: string(r.Body), Send: string(r.Send),
	}, errors.Join(errType, errInterval, errTimeout)
}

func encode(record any) ([]byte, error) { return json.Marshal(record) }

// decode reads all of a record: a field that it does not know, or anything
// after the record, is an error.
func decode(data []byte, record any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(record); err != nil {
		return fmt.Errorf("the record cannot be read: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("the record is followed by something else")
	}
	return nil
}

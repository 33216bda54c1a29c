package api

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
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

func (at field) address(dst *netip.Addr, given *string) error {
	if given == nil {
		return nil
	}
	addr, err := netip.ParseAddr(*given)
	if err != nil {
		return at.fail("address", "%q is not an address", *given)
	}
	*dst = addr
	return nil
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

func setDuration(dst *time.Duration, given *int64) {
	if given != nil {
		*dst = time.Duration(*given)
	}
}

func setVIPFields(v *model.VIP, fields *steelyardv1.VIPFields) error {
	at := field(fmt.Sprintf("VIP %q", v.Name))
	set(&v.Pool, fields.Pool)
	setDuration(&v.IdleTimeout, fields.IdleTimeoutNanoseconds)
	return errors.Join(
		at.address(&v.Address, fields.Address),
		word(at, "protocol", &v.Protocol, fields.Protocol, model.ParseProtocol),
		at.port(&v.Port, fields.Port),
		word(at, "mode", &v.Mode, fields.Mode, model.ParseMode),
		word(at, "tracking", &v.Tracking, fields.Tracking, model.ParseTracking),
	)
}

func setPoolFields(p *model.Pool, fields *steelyardv1.PoolFields) error {
	set(&p.TableSize, fields.TableSize)
	setDuration(&p.DownGrace, fields.DownGraceNanoseconds)
	setDuration(&p.SlowStart, fields.SlowStartNanoseconds)
	return word(field(fmt.Sprintf("pool %q", p.Name)), "on_all_down", &p.OnAllDown, fields.OnAllDown, model.ParseOnAllDown)
}

func setBackendFields(pool string, b *model.Backend, fields *steelyardv1.BackendFields, now time.Time) error {
	set(&b.Weight, fields.Weight)
	before := b.State
	if err := word(atBackend(pool, b.BackendID), "state", &b.State, fields.State, model.ParseAdminState); err != nil {
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

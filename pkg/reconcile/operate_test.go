package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// operation is one operation of a change and its arguments.
type operation struct {
	state *model.State
	words []string
}

// word returns an argument, or an empty string.
func (o operation) word(i int) string {
	if i+1 < len(o.words) {
		return o.words[i+1]
	}
	return ""
}

func (o operation) run() error {
	name := o.word(0)
	switch o.words[0] {
	case "nothing":
		return nil
	case "give-up":
		o.state.Pools = nil
		return errors.New(name)
	case "add-pool":
		o.state.Pools = append(o.state.Pools, model.Pool{Name: name, TableSize: model.DefaultTableSize, OnAllDown: model.OnAllDownDrop})
		return o.setPool()
	case "set-pool":
		return o.setPool()
	case "remove-pool":
		o.state.Pools = slices.DeleteFunc(o.state.Pools, func(p model.Pool) bool { return p.Name == name })
		return nil
	case "add-vip":
		return o.addVIP(name, o.word(1), o.word(2), o.word(3))
	case "set-vip":
		vip, err := o.state.VIP(name)
		if err == nil {
			vip.Pool = o.word(1)
		}
		return err
	case "remove-vip":
		o.state.VIPs = slices.DeleteFunc(o.state.VIPs, func(v model.VIP) bool { return v.Name == name })
		return nil
	case "remove-check":
		pool, err := o.state.Pool(name)
		if err == nil {
			pool.Checks = slices.DeleteFunc(pool.Checks, func(c model.Check) bool { return c.Name == o.word(1) })
		}
		return err
	}
	return o.onBackend(name, o.word(1))
}

// setPool reads checks=tcp,icmp (to add), table=251 and on-all-down=reset.
func (o operation) setPool() error {
	pool, err := o.state.Pool(o.word(0))
	if err != nil {
		return err
	}
	for key, value := range settings(o.words[2:]) {
		switch key {
		case "checks":
			for kind := range strings.SplitSeq(value, ",") {
				var c model.Check
				if c.Type, err = model.ParseCheckType(kind); err != nil {
					return err
				}
				if c.Type != model.CheckICMP {
					c.Port = 80
				}
				pool.Checks = append(pool.Checks, c.WithDefaults())
			}
		case "table":
			pool.TableSize, err = number(value)
		case "down-grace":
			pool.DownGrace, err = time.ParseDuration(value)
		case "slow-start":
			pool.SlowStart, err = time.ParseDuration(value)
		case "on-all-down":
			pool.OnAllDown, err = model.ParseOnAllDown(value)
		default:
			err = fmt.Errorf("unknown setting %q", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func (o operation) addVIP(name, endpoint, pool, mode string) error {
	at, err := model.ParseEndpoint(endpoint)
	if err != nil {
		return err
	}
	vip := model.VIP{
		Name: name, Endpoints: []model.Endpoint{at}, Protocol: model.TCP, Mode: model.ModeDSRIPIP, Pool: pool,
		IdleTimeout: model.DefaultIdleTimeout, Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow,
	}
	if mode != "" {
		vip.Mode, err = model.ParseMode(mode)
	}
	vip.Tracking = vip.DefaultTracking()
	o.state.VIPs = append(o.state.VIPs, vip)
	return err
}

func (o operation) onBackend(poolName, address string) error {
	pool, err := o.state.Pool(poolName)
	if err != nil {
		return err
	}
	id, err := model.ParseBackendID(address)
	if err != nil {
		return err
	}
	switch o.words[0] {
	case "add-backend":
		pool.Backends = append(pool.Backends, model.Backend{BackendID: id, Weight: model.DefaultWeight, State: model.Enabled})
	case "set-backend":
	case "remove-backend":
		pool.Backends = slices.DeleteFunc(pool.Backends, func(b model.Backend) bool { return b.BackendID == id })
		return nil
	default:
		return fmt.Errorf("unknown operation %q", o.words[0])
	}
	b, err := o.state.Backend(poolName, id)
	if err != nil {
		return err
	}
	for key, value := range settings(o.words[3:]) {
		switch key {
		case "weight":
			b.Weight, err = number(value)
		case "max-connections":
			b.MaxConnections, err = number(value)
		case "state":
			b.State, err = model.ParseAdminState(value)
			if b.State != model.Draining {
				b.Drain = model.Drain{}
			}
		case "deadline":
			var d time.Duration
			d, err = time.ParseDuration(value)
			b.Drain.Deadline = time.Now().Add(d)
		case "then":
			b.Drain.Remove = value == "remove"
		default:
			err = fmt.Errorf("unknown setting %q", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

package api

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// mutate applies mutations in order and judges the outcome. It returns the backends
// that were to be drained or removed, and drain. On error the state is of no use any
// more. What holds for every state is left to [model.State.Validate].
func mutate(state *model.State, mutations []*steelyardv1.Mutation, now time.Time) (draining []BackendName, err error) {
	if len(mutations) == 0 {
		return nil, &model.FieldError{Path: "mutations", Reason: "there are none; nothing to change"}
	}
	m := &mutator{State: state, now: now}
	for _, mutation := range mutations {
		if err := m.apply(mutation); err != nil {
			return nil, err
		}
	}
	if err := m.judge(); err != nil {
		return nil, err
	}
	return m.stillDraining(), nil
}

// mutator is a state under change, with what was taken from it.
type mutator struct {
	*model.State
	now time.Time
	// removedPools are names.
	removedPools []string
	// removedLists are names.
	removedLists []string
	// leaving are the backends that were removed, or will be once they are drained.
	leaving []BackendName
	// drained are those that were given a drain.
	drained []BackendName
}

func (m *mutator) apply(mutation *steelyardv1.Mutation) error {
	switch x := mutation.GetMutation().(type) {
	case *steelyardv1.Mutation_AddVip:
		return m.addVIP(x.AddVip)
	case *steelyardv1.Mutation_SetVip:
		return m.setVIP(orEmpty(x.SetVip))
	case *steelyardv1.Mutation_RemoveVip:
		return m.removeVIP(x.RemoveVip)
	case *steelyardv1.Mutation_AddPool:
		return m.addPool(x.AddPool)
	case *steelyardv1.Mutation_SetPool:
		return m.setPool(orEmpty(x.SetPool))
	case *steelyardv1.Mutation_RemovePool:
		return m.removePool(x.RemovePool)
	case *steelyardv1.Mutation_AddBackend:
		return m.addBackend(x.AddBackend.GetPool(), orEmpty(x.AddBackend.GetBackend()))
	case *steelyardv1.Mutation_SetBackend:
		return m.setBackend(x.SetBackend.GetPool(), orEmpty(x.SetBackend.GetBackend()))
	case *steelyardv1.Mutation_RemoveBackend:
		return m.removeBackend(orEmpty(x.RemoveBackend))
	case *steelyardv1.Mutation_DrainBackend:
		return m.drainBackend(orEmpty(x.DrainBackend))
	case *steelyardv1.Mutation_AddCheck:
		return m.addCheck(x.AddCheck.GetPool(), orEmpty(x.AddCheck.GetCheck()))
	case *steelyardv1.Mutation_SetCheck:
		return m.setCheck(x.SetCheck.GetPool(), orEmpty(x.SetCheck.GetCheck()))
	case *steelyardv1.Mutation_RemoveCheck:
		return m.removeCheck(x.RemoveCheck.GetPool(), x.RemoveCheck.GetCheck().GetName())
	case *steelyardv1.Mutation_SetSourceList:
		return m.setSourceList(orEmpty(x.SetSourceList))
	case *steelyardv1.Mutation_RemoveSourceList:
		return m.removeSourceList(x.RemoveSourceList)
	case *steelyardv1.Mutation_SetSources:
		m.setSources(orEmpty(x.SetSources))
		return nil
	}
	return &model.FieldError{Path: "mutations", Reason: "one of them is empty, or of a kind that this daemon does not know; is it older than the client?"}
}

// orEmpty stands in for a message that a request left out.
func orEmpty[T any](message *T) *T {
	if message == nil {
		return new(T)
	}
	return message
}

// judge refuses a state that lacks what its VIPs use. The same rules are in
// Validate; here it is known what was removed, so that the error can say.
func (m *mutator) judge() error {
	for _, name := range m.removedPools {
		if users := m.VIPsOf(name); len(users) > 0 && !m.hasPool(name) {
			return &model.ConflictError{Reason: fmt.Sprintf("pool %q is in use by %s; point it at another pool (steelyard vip set %s --pool POOL) or remove it first (steelyard vip remove %s)",
				name, vipNames(users), users[0], users[0])}
		}
	}
	if err := errors.Join(m.judgeLeaving(), m.judgeLists()); err != nil {
		return err
	}
	for _, v := range m.VIPs {
		if _, err := m.Pool(v.Pool); err != nil {
			return err
		}
	}
	return nil
}

func (m *mutator) hasPool(name string) bool {
	_, err := m.Pool(name)
	return err == nil
}

func vipNames(names []string) string {
	if len(names) == 1 {
		return "VIP " + names[0]
	}
	return "VIPs " + strings.Join(names, ", ")
}

func (m *mutator) addVIP(add *steelyardv1.AddVIP) error {
	fields := orEmpty(add.GetVip())
	if old, err := m.VIP(fields.GetName()); err == nil {
		return exists("VIP %q exists already: %s to pool %q; change it with: steelyard vip set %s", old.Name, old.Service(), old.Pool, old.Name)
	}
	vip := model.VIP{
		Name: fields.GetName(), Protocol: model.TCP, Mode: model.ModeDSRIPIP, IdleTimeout: model.DefaultIdleTimeout,
		Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow,
	}
	if err := setVIPFields(&vip, fields); err != nil {
		return err
	}
	if fields.Tracking == nil {
		vip.Tracking = vip.DefaultTracking()
	}
	inline := len(add.GetBackends()) > 0
	switch {
	case inline && vip.Pool != "":
		return vipError(vip.Name, "pool", "give either a pool or backends to make one of, not both")
	case !inline && vip.Pool == "":
		return vipError(vip.Name, "pool", "is missing; name a pool (--pool), or give backends to make one of (--backend)")
	case !inline && (len(add.GetChecks()) > 0 || add.GetNoChecks()):
		return vipError(vip.Name, "checks", "belong to pool %q; change them there: steelyard check add %s", vip.Pool, vip.Pool)
	case inline:
		vip.Pool = vip.Name
		if err := m.addPoolOf(&vip, add); err != nil {
			return err
		}
	}
	m.VIPs = append(m.VIPs, vip)
	return nil
}

// addPoolOf makes the pool of a VIP that came with backends.
func (m *mutator) addPoolOf(vip *model.VIP, add *steelyardv1.AddVIP) error {
	if m.hasPool(vip.Name) {
		return exists("a pool %q exists already; use it (--pool %s), or give the VIP another name", vip.Name, vip.Name)
	}
	checks := add.GetChecks()
	if add.GetNoChecks() && len(checks) > 0 {
		return vipError(vip.Name, "checks", "give either checks or none, not both")
	}
	port, known := checkedPort(vip, add.GetBackends())
	if len(checks) == 0 && !add.GetNoChecks() {
		kind := model.CheckTCP.String()
		if vip.Protocol != model.TCP || !known {
			kind = model.CheckICMP.String()
		}
		checks = []*steelyardv1.CheckFields{{Type: &kind}}
	}
	if err := m.addPool(&steelyardv1.AddPool{
		Pool:     &steelyardv1.PoolFields{Name: vip.Name},
		Backends: add.GetBackends(),
		Checks:   checks,
	}); err != nil {
		return err
	}
	pool, err := m.Pool(vip.Name)
	if err != nil {
		return err
	}
	for i := range pool.Checks {
		if c := &pool.Checks[i]; c.Port == 0 && c.Type != model.CheckICMP {
			c.Port = port
		}
	}
	return nil
}

// checkedPort is the port that the checks of a VIP's new backends probe unless they
// say another: the backends' own, which is 0, or the VIP's, if it has just one.
func checkedPort(vip *model.VIP, backends []*steelyardv1.BackendFields) (port uint16, known bool) {
	if vip.Mode.TranslatesPort() && slices.ContainsFunc(backends, func(b *steelyardv1.BackendFields) bool { return b.GetPort() != 0 }) {
		return 0, true
	}
	return vip.OnePort()
}

func (m *mutator) setVIP(fields *steelyardv1.VIPFields) error {
	vip, err := m.VIP(fields.GetName())
	if err != nil {
		return err
	}
	return setVIPFields(vip, fields)
}

func (m *mutator) removeVIP(name string) error {
	if _, err := m.VIP(name); err != nil {
		return err
	}
	m.VIPs = slices.DeleteFunc(m.VIPs, func(v model.VIP) bool { return v.Name == name })
	return nil
}

func (m *mutator) addPool(add *steelyardv1.AddPool) error {
	fields := orEmpty(add.GetPool())
	name := fields.GetName()
	if m.hasPool(name) {
		return exists("pool %q exists already; change it with: steelyard pool set %s, or add backends with: steelyard backend add %s", name, name, name)
	}
	pool := model.Pool{Name: name, TableSize: model.DefaultTableSize, OnAllDown: model.OnAllDownDrop, DownGrace: model.DefaultDownGrace}
	if err := setPoolFields(&pool, fields); err != nil {
		return err
	}
	m.Pools = append(m.Pools, pool)
	var errs []error
	for _, b := range add.GetBackends() {
		errs = append(errs, m.addBackend(name, b))
	}
	for _, c := range add.GetChecks() {
		errs = append(errs, m.addCheck(name, c))
	}
	return errors.Join(errs...)
}

func (m *mutator) setPool(fields *steelyardv1.PoolFields) error {
	pool, err := m.Pool(fields.GetName())
	if err != nil {
		return err
	}
	return setPoolFields(pool, fields)
}

func (m *mutator) removePool(name string) error {
	if _, err := m.Pool(name); err != nil {
		return err
	}
	m.Pools = slices.DeleteFunc(m.Pools, func(p model.Pool) bool { return p.Name == name })
	m.removedPools = append(m.removedPools, name)
	return nil
}

func (m *mutator) addBackend(pool string, fields *steelyardv1.BackendFields) error {
	p, err := m.Pool(pool)
	if err != nil {
		return err
	}
	id, err := backendID(pool, fields)
	if err != nil {
		return err
	}
	if _, taken := p.Backend(id); taken {
		return exists("backend %s is in pool %q already; change it with: steelyard backend set %s %s", id, pool, pool, id)
	}
	b := model.Backend{BackendID: id, Weight: model.DefaultWeight, State: model.Enabled}
	if err := setBackendFields(pool, &b, fields, m.now); err != nil {
		return err
	}
	p.Backends = append(p.Backends, b)
	return nil
}

func (m *mutator) setBackend(pool string, fields *steelyardv1.BackendFields) error {
	b, err := m.findBackend(pool, fields)
	if err != nil {
		return err
	}
	return setBackendFields(pool, b, fields, m.now)
}

func (m *mutator) findBackend(pool string, fields *steelyardv1.BackendFields) (*model.Backend, error) {
	if _, err := m.Pool(pool); err != nil {
		return nil, err
	}
	id, err := backendID(pool, fields)
	if err != nil {
		return nil, err
	}
	return m.Backend(pool, id)
}

func backendID(pool string, fields *steelyardv1.BackendFields) (model.BackendID, error) {
	at := field(fmt.Sprintf("pool %q, backend %q", pool, fields.GetAddress()))
	addr, err := netip.ParseAddr(fields.GetAddress())
	if err != nil {
		return model.BackendID{}, at.fail("address", "%q is not an address", fields.GetAddress())
	}
	id := model.BackendID{Address: addr}
	return id, at.port(&id.Port, &fields.Port)
}

func (m *mutator) addCheck(pool string, fields *steelyardv1.CheckFields) error {
	p, err := m.Pool(pool)
	if err != nil {
		return err
	}
	check, err := newCheck(pool, fields)
	if err != nil {
		return err
	}
	if _, taken := p.Check(check.Name); taken {
		return exists("pool %q has a check %q already; change it with: steelyard check set %s %s, or give this one another name", pool, check.Name, pool, check.Name)
	}
	p.Checks = append(p.Checks, check)
	return nil
}

func (m *mutator) setCheck(pool string, fields *steelyardv1.CheckFields) error {
	c, err := m.Check(pool, fields.GetName())
	if err != nil {
		return err
	}
	return setCheckFields(pool, c, fields)
}

func (m *mutator) removeCheck(pool, name string) error {
	if _, err := m.Check(pool, name); err != nil {
		return err
	}
	p, err := m.Pool(pool)
	if err != nil {
		return err
	}
	p.Checks = slices.DeleteFunc(p.Checks, func(c model.Check) bool { return c.Name == name })
	return nil
}

func exists(format string, args ...any) error {
	return &model.ConflictError{Exists: true, Reason: fmt.Sprintf(format, args...)}
}

func vipError(name, part, format string, args ...any) error {
	return field(fmt.Sprintf("VIP %q", name)).fail(part, format, args...)
}

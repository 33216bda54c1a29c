package cli

import (
	"context"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// observed is desired state with what is observed of it.
type observed struct {
	desired model.State
	status  model.Status
}

// observe asks the daemon for everything.
func (a *app) observe(ctx context.Context) (*observed, error) {
	client := a.client()
	defer client.Close()
	desired, _, err := client.Get(ctx)
	if err != nil {
		return nil, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &observed{desired, status}, nil
}

// vip returns a VIP, or the error of a name that is not there.
func (o *observed) vip(name string) (model.VIPStatus, error) {
	want, err := o.desired.VIP(name)
	if err != nil {
		return model.VIPStatus{}, err
	}
	for _, v := range o.status.VIPs {
		if v.Name == name {
			return v, nil
		}
	}
	return model.VIPStatus{VIP: *want}, nil
}

// pool returns a pool, or the error of a name that is not there.
func (o *observed) pool(name string) (*model.PoolStatus, error) {
	want, err := o.desired.Pool(name)
	if err != nil {
		return nil, err
	}
	for i := range o.status.Pools {
		if o.status.Pools[i].Name == name {
			return &o.status.Pools[i], nil
		}
	}
	return &model.PoolStatus{Name: name, TableSize: want.TableSize, OnAllDown: want.OnAllDown}, nil
}

// pools returns the named pool, or all of them for "".
func (o *observed) pools(name string) ([]model.PoolStatus, error) {
	if name == "" {
		return o.status.Pools, nil
	}
	p, err := o.pool(name)
	if err != nil {
		return nil, err
	}
	return []model.PoolStatus{*p}, nil
}

func (o *observed) backend(pool string, id model.BackendID) (*model.PoolStatus, model.BackendStatus, error) {
	p, err := o.pool(pool)
	if err != nil {
		return nil, model.BackendStatus{}, err
	}
	want, err := o.desired.Backend(pool, id)
	if err != nil {
		return nil, model.BackendStatus{}, err
	}
	for _, b := range p.Backends {
		if b.BackendID == id {
			return p, b, nil
		}
	}
	return p, model.BackendStatus{Backend: *want}, nil
}

func (o *observed) view(p model.PoolStatus) poolView {
	view := poolView{
		Name: p.Name, TableSize: p.TableSize, OnAllDown: p.OnAllDown.String(),
		SlotsInFlux: p.SlotsInFlux,

		VIPs:     append([]string{}, o.desired.VIPsOf(p.Name)...),
		Checks:   []checkView{},
		Backends: views(p.Backends, func(b model.BackendStatus) backendView { return viewBackend(&p, b) }),
	}
	if want, err := o.desired.Pool(p.Name); err == nil {
		view.DownGrace, view.SlowStart = span(want.DownGrace), span(want.SlowStart)
		view.Checks = views(want.Checks, func(c model.Check) checkView { return viewCheck(p.Name, c) })
	}
	return view
}

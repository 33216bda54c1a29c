package model

import (
	"cmp"
	"slices"
	"strings"
)

// State is the desired state: everything the operator asked for.
type State struct {
	VIPs  []VIP
	Pools []Pool
	// SourceLists are what VIPs and Sources name.
	SourceLists []SourceList
	// Sources hold for all VIPs.
	Sources NodeSources
}

// Clone returns a deep copy, but for the contents of source lists, which do not change.
func (s State) Clone() State {
	c := State{VIPs: slices.Clone(s.VIPs), Pools: slices.Clone(s.Pools), SourceLists: slices.Clone(s.SourceLists), Sources: s.Sources}
	for i := range c.VIPs {
		c.VIPs[i].Endpoints = slices.Clone(c.VIPs[i].Endpoints)
	}
	for i := range c.Pools {
		c.Pools[i].Checks = slices.Clone(c.Pools[i].Checks)
		c.Pools[i].Backends = slices.Clone(c.Pools[i].Backends)
		for j := range c.Pools[i].Backends {
			b := &c.Pools[i].Backends[j]
			b.ServerIDs = slices.Clone(b.ServerIDs)
		}
	}
	return c
}

// Sort puts the state into its canonical order: VIPs, pools, checks and
// source lists by name, backends by identity, endpoints by address, server IDs by configuration.
func (s *State) Sort() {
	slices.SortFunc(s.VIPs, func(a, b VIP) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.SourceLists, func(a, b SourceList) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Pools, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	for i := range s.VIPs {
		slices.SortFunc(s.VIPs[i].Endpoints, Endpoint.Compare)
	}
	for i := range s.Pools {
		p := &s.Pools[i]
		slices.SortFunc(p.Checks, func(a, b Check) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortFunc(p.Backends, func(a, b Backend) int { return a.Compare(b.BackendID) })
		for j := range p.Backends {
			slices.SortFunc(p.Backends[j].ServerIDs, func(a, b ServerID) int {
				return cmp.Or(cmp.Compare(a.Config, b.Config), cmp.Compare(a.ID, b.ID))
			})
		}
	}
}

// VIP returns the VIP of that name, or a [NotFoundError] that names its neighbours.
func (s *State) VIP(name string) (*VIP, error) {
	for i := range s.VIPs {
		if s.VIPs[i].Name == name {
			return &s.VIPs[i], nil
		}
	}
	return nil, notFound("VIP", name, "", names(s.VIPs, func(v VIP) string { return v.Name }))
}

// Pool returns the pool of that name, or a [NotFoundError] that names its neighbours.
func (s *State) Pool(name string) (*Pool, error) {
	for i := range s.Pools {
		if s.Pools[i].Name == name {
			return &s.Pools[i], nil
		}
	}
	return nil, notFound("pool", name, "", names(s.Pools, func(p Pool) string { return p.Name }))
}

// Backend returns a backend and its pool, or a [NotFoundError].
func (s *State) Backend(pool string, id BackendID) (*Backend, error) {
	p, err := s.Pool(pool)
	if err != nil {
		return nil, err
	}
	if b, ok := p.Backend(id); ok {
		return b, nil
	}
	return nil, notFound("backend", id.String(), pool, names(p.Backends, func(b Backend) string { return b.String() }))
}

// Check returns a check of a pool, or a [NotFoundError].
func (s *State) Check(pool, name string) (*Check, error) {
	p, err := s.Pool(pool)
	if err != nil {
		return nil, err
	}
	if c, ok := p.Check(name); ok {
		return c, nil
	}
	return nil, notFound("check", name, pool, names(p.Checks, func(c Check) string { return c.Name }))
}

// VIPsOf returns the names of the VIPs that use a pool.
func (s *State) VIPsOf(pool string) []string {
	var out []string
	for _, v := range s.VIPs {
		if v.Pool == pool {
			out = append(out, v.Name)
		}
	}
	return out
}

func names[T any](list []T, name func(T) string) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = name(v)
	}
	return out
}

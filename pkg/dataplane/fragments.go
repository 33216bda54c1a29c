package dataplane

// dropFragments forgets the fragmented packets that are on backends, or of VIPs,
// whose numbers are about to be free. The table is small: a pass is nothing.
func (p *Plane) dropFragments(free freed) {
	vips, backends := map[uint32]bool{}, map[uint32]bool{}
	for _, id := range free.vips {
		vips[id] = true
	}
	for _, b := range free.backends {
		backends[b.at.base()+b.at.owners[b.id]] = true
	}
	for _, g := range free.ghosts {
		for _, owner := range g.owners {
			backends[g.base()+owner] = true
		}
	}
	for i := range p.fragments.elements {
		for j := range p.fragments.elements[i].Flow {
			e := &p.fragments.elements[i].Flow[j]
			key, state, ok := loadFlow(e)
			if !ok {
				continue
			}
			if f := decodeFlow(key, state); vips[f.vip] || backends[f.Backend] {
				dropFlow(e, key, state)
			}
		}
	}
}

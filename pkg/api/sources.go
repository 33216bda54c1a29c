package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func (m *mutator) setSourceList(set *steelyardv1.SetSourceList) error {
	prefixes := make([]netip.Prefix, 0, len(set.Prefixes))
	for i, s := range set.Prefixes {
		p, err := model.ParseSourcePrefix(s)
		if err != nil {
			return field(fmt.Sprintf("source list %q", set.Name)).fail(fmt.Sprintf("prefix %d", i+1), "%v", err)
		}
		prefixes = append(prefixes, p)
	}
	l, err := model.NewSourceList(set.Name, prefixes)
	if err != nil {
		return err
	}
	if at := slices.IndexFunc(m.SourceLists, func(l model.SourceList) bool { return l.Name == set.Name }); at >= 0 {
		m.SourceLists[at] = l
	} else {
		m.SourceLists = append(m.SourceLists, l)
	}
	return nil
}

func (m *mutator) removeSourceList(name string) error {
	if _, err := m.SourceList(name); err != nil {
		return err
	}
	m.SourceLists = slices.DeleteFunc(m.SourceLists, func(l model.SourceList) bool { return l.Name == name })
	m.removedLists = append(m.removedLists, name)
	return nil
}

func (m *mutator) setSources(fields *steelyardv1.NodeSourcesFields) {
	setList(&m.Sources.Deny, fields.Deny)
	setList(&m.Sources.Allow, fields.Allow)
	setList(&m.Sources.Bogus, fields.Bogus)
}

// judgeLists refuses to do without a source list that something names, and names of
// lists that were never there.
func (m *mutator) judgeLists() error {
	for _, name := range m.removedLists {
		if _, err := m.SourceList(name); err == nil {
			continue
		}
		if users := m.UsersOf(name); len(users) > 0 {
			return &model.ConflictError{Reason: fmt.Sprintf("source list %q is in use by %s; take it away there first (steelyard vip set NAME --deny none, steelyard source-list use --deny none)",
				name, strings.Join(users, ", "))}
		}
	}
	named := []string{m.Sources.Deny, m.Sources.Allow, m.Sources.Bogus}
	for _, v := range m.VIPs {
		named = append(named, v.Sources.Deny, v.Sources.Allow)
	}
	for _, name := range named {
		if name != "" {
			if _, err := m.SourceList(name); err != nil {
				return err
			}
		}
	}
	return nil
}

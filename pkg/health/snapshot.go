package health

import (
	"iter"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Snapshot is an immutable picture of all results at one moment.
type Snapshot struct {
	keys []Key
	// index finds a key's place in keys and in statuses. Keys and index are
	// shared by all snapshots of one set of targets.
	index    map[Key]int
	statuses []*model.CheckStatus
}

// Check returns the state of one check; false if there is no such target.
func (s *Snapshot) Check(k Key) (model.CheckStatus, bool) {
	i, ok := s.index[k]
	if !ok {
		return model.CheckStatus{}, false
	}
	return *s.statuses[i], true
}

// All yields every check in the order in which the targets were set. What it
// yields is what [Checker.Restore] takes.
func (s *Snapshot) All() iter.Seq2[Key, model.CheckStatus] {
	return func(yield func(Key, model.CheckStatus) bool) {
		for i, k := range s.keys {
			if !yield(k, *s.statuses[i]) {
				return
			}
		}
	}
}

// Backend folds the checks of a backend of p into its health: up when all of
// them are up, down when any is down, otherwise unknown. A backend of a pool
// without checks is up. A check that no target stands for, such as one of a
// disabled backend, is unknown.
//
// The time says since when: up since the last check came up, down or unknown
// since the first of the checks that say so now. It is zero where nothing was
// ever observed.
func (s *Snapshot) Backend(p *model.Pool, id model.BackendID) (model.Health, time.Time) {
	r := s.Reader()
	return r.Backend(p, id)
}

// Reader reads a snapshot, quickest in the order in which the targets were set.
type Reader struct {
	snapshot *Snapshot
	// next is where the check after the one found last is.
	next int
}

// Reader returns one for a single goroutine.
func (s *Snapshot) Reader() Reader { return Reader{snapshot: s} }

// check finds the state of a check; without a target it is the zero one.
func (r *Reader) check(k Key) *model.CheckStatus {
	if s := r.snapshot; r.next >= len(s.keys) || s.keys[r.next] != k {
		i, ok := s.index[k]
		if !ok {
			return &model.CheckStatus{}
		}
		r.next = i
	}
	r.next++
	return r.snapshot.statuses[r.next-1]
}

// Backend is [Snapshot.Backend].
func (r *Reader) Backend(p *model.Pool, id model.BackendID) (model.Health, time.Time) {
	folded, since := model.HealthUp, time.Time{}
	for i := range p.Checks {
		status := r.check(Key{p.Name, id, p.Checks[i].WithDefaults().Name})
		switch {
		case i == 0 || graver(status.Health, folded):
			folded, since = status.Health, status.Since
		case status.Health != folded:
		case folded == model.HealthUp:
			if status.Since.After(since) {
				since = status.Since
			}
		case status.Since.Before(since):
			since = status.Since
		}
	}
	return folded, since
}

// graver reports whether a outweighs b in a fold: down, then unknown, then up.
func graver(a, b model.Health) bool {
	return a != b && (a == model.HealthDown || b == model.HealthUp)
}

package store

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Load returns the state, in its canonical order, and its revision. An empty
// store has revision 0.
func (s *Store) Load() (model.State, uint64, error) {
	var state model.State
	var at uint64
	err := s.view(func(tx *bbolt.Tx) error {
		at = revision(tx)
		err := tx.Bucket([]byte(bucketVIPs)).ForEach(func(name, data []byte) error {
			vip, err := decodeVIP(string(name), data)
			if err != nil {
				return fmt.Errorf("read store %s: VIP %q: %w", s.path, name, err)
			}
			state.VIPs = append(state.VIPs, vip)
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket([]byte(bucketPools)).ForEach(func(name, data []byte) error {
			pool, err := decodePool(string(name), data)
			if err != nil {
				return fmt.Errorf("read store %s: pool %q: %w", s.path, name, err)
			}
			state.Pools = append(state.Pools, pool)
			return nil
		})
		if err != nil {
			return err
		}
		return s.loadSources(tx, &state)
	})
	if err != nil {
		return model.State{}, 0, err
	}
	state.Sort()
	return state, at, nil
}

// Save replaces the state as a whole and returns its new revision, which is one
// higher. Only objects that differ are written; if none do, nothing is, and the
// revision stays. If the stored revision is not expect, the error is an
// [ErrConflict]. The note, such as the command that asked, is kept in the
// history. next must be valid ([model.State.Validate]).
func (s *Store) Save(expect uint64, next model.State, note string) (uint64, error) {
	next = next.Clone()
	next.Sort()
	write, err := writer(next)
	if err != nil {
		return 0, fmt.Errorf("save state: %w", err)
	}
	saved := expect
	err = s.update(func(tx *bbolt.Tx) error {
		if at := revision(tx); at != expect {
			return fmt.Errorf("%w: it is at revision %d now, this change was made to revision %d; read it again and repeat the change", ErrConflict, at, expect)
		}
		changes, err := write(tx)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			return errUnchanged
		}
		saved = expect + 1
		if err := setRevision(tx, saved); err != nil {
			return err
		}
		return remember(tx, Entry{Revision: saved, Time: time.Now(), Note: note, Changes: changes})
	})
	if err != nil {
		return 0, err
	}
	return saved, nil
}

// writer encodes a state. What it returns makes the store hold exactly that
// state, and says which objects differed, pools first, source lists last.
func writer(state model.State) (func(*bbolt.Tx) ([]Change, error), error) {
	vips, err := encodeAll(state.VIPs, func(v model.VIP) string { return v.Name }, encodeVIP)
	if err != nil {
		return nil, fmt.Errorf("VIP %w", err)
	}
	pools, err := encodeAll(state.Pools, func(p model.Pool) string { return p.Name }, encodePool)
	if err != nil {
		return nil, fmt.Errorf("pool %w", err)
	}
	sources, err := sourcesWriter(state)
	if err != nil {
		return nil, err
	}
	return func(tx *bbolt.Tx) ([]Change, error) {
		changes, err := replace(tx.Bucket([]byte(bucketPools)), KindPool, pools)
		if err != nil {
			return nil, err
		}
		more, err := replace(tx.Bucket([]byte(bucketVIPs)), KindVIP, vips)
		if err != nil {
			return nil, err
		}
		rest, err := sources(tx)
		return append(append(changes, more...), rest...), err
	}, nil
}

// encodeAll returns the records of all objects by name.
func encodeAll[T any](objects []T, name func(T) string, encode func(T) ([]byte, error)) (map[string][]byte, error) {
	records := make(map[string][]byte, len(objects))
	for _, o := range objects {
		n := name(o)
		if n == "" || records[n] != nil {
			return nil, fmt.Errorf("%q: the name is missing or taken", n)
		}
		record, err := encode(o)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", n, err)
		}
		records[n] = record
	}
	return records, nil
}

// replace makes a bucket hold exactly the given records. It writes those that
// differ and returns them, sorted by name.
func replace(bucket *bbolt.Bucket, kind Kind, next map[string][]byte) ([]Change, error) {
	var changes []Change
	err := bucket.ForEach(func(key, old []byte) error {
		name := string(key)
		if record, kept := next[name]; !kept {
			changes = append(changes, Change{kind, name, Removed})
		} else if !bytes.Equal(old, record) {
			changes = append(changes, Change{kind, name, Changed})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range next {
		if bucket.Get([]byte(name)) == nil {
			changes = append(changes, Change{kind, name, Added})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range changes {
		if c.Action == Removed {
			err = bucket.Delete([]byte(c.Name))
		} else {
			err = bucket.Put([]byte(c.Name), next[c.Name])
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", kind, c.Name, err)
		}
	}
	return changes, nil
}

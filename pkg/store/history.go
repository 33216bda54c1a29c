package store

import (
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// historyLength is how many entries are kept.
	historyLength = 1000
	// changesKept is how many changes an entry names, so that imports of
	// thousands of objects do not fill the file.
	changesKept = 100
)

// Kind is a kind of object of the desired state.
type Kind string

// The kinds of objects. A pool's checks and backends are part of it.
const (
	KindVIP        Kind = "VIP"
	KindPool       Kind = "pool"
	KindSourceList Kind = "source list"
	// KindNode is what holds for all VIPs.
	KindNode Kind = "node"
)

// Action is what became of an object.
type Action string

// The actions.
const (
	Added   Action = "added"
	Changed Action = "changed"
	Removed Action = "removed"
)

// Change is one object that a revision changed.
type Change struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	Action Action `json:"action"`
}

// Entry is one change of the state.
type Entry struct {
	Revision uint64
	// Time in UTC.
	Time time.Time
	// Note is the caller's, see [Store.Save].
	Note string
	// Changes names the first 100 objects that changed, pools first; More is
	// how many others there were.
	Changes []Change
	More    int
}

type entryRecord struct {
	Time    time.Time `json:"time"`
	Note    string    `json:"note,omitempty"`
	Changes []Change  `json:"changes"`
	More    int       `json:"more,omitempty"`
}

// History returns the newest n entries, the newest first. The last 1000 are kept.
func (s *Store) History(n int) ([]Entry, error) {
	var entries []Entry
	err := s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketHistory)).Cursor()
		for key, data := c.Last(); key != nil && len(entries) < n; key, data = c.Prev() {
			if len(key) != 8 {
				return s.damaged(fmt.Errorf("history has the key %x", key))
			}
			at := binary.BigEndian.Uint64(key)
			var r entryRecord
			if err := decode(data, &r); err != nil {
				return fmt.Errorf("read store %s: history of revision %d: %w", s.path, at, err)
			}
			entries = append(entries, Entry{Revision: at, Time: r.Time, Note: r.Note, Changes: r.Changes, More: r.More})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// remember adds an entry and forgets the one that it pushes out.
func remember(tx *bbolt.Tx, e Entry) error {
	r := entryRecord{Time: e.Time.UTC(), Note: e.Note, Changes: e.Changes}
	if len(r.Changes) > changesKept {
		r.More = len(r.Changes) - changesKept
		r.Changes = r.Changes[:changesKept]
	}
	data, err := encode(r)
	if err != nil {
		return err
	}
	history := tx.Bucket([]byte(bucketHistory))
	if e.Revision > historyLength {
		if err := history.Delete(historyKey(e.Revision - historyLength)); err != nil {
			return err
		}
	}
	return history.Put(historyKey(e.Revision), data)
}

func historyKey(revision uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, revision)
}

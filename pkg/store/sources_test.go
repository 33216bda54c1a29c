package store

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func sourceList(t *testing.T, name string, prefixes ...string) model.SourceList {
	t.Helper()
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, netip.MustParsePrefix(p))
	}
	l, err := model.NewSourceList(name, all)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// contents counts what the file keeps of lists.
func contents(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.view(func(tx *bbolt.Tx) error {
		n = tx.Bucket([]byte(bucketPrefixes)).Stats().KeyN
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSourceLists: what is on lists is kept once, across openings, and no longer than
// a list has it.
func TestSourceLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	one := []string{"192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"}
	state := model.State{
		SourceLists: []model.SourceList{sourceList(t, "a", one...), sourceList(t, "b", one...), sourceList(t, "c")},
		Sources:     model.NodeSources{Sources: model.Sources{Deny: "a", Allow: "b"}, Bogus: "c"},
	}
	expect := func(revision uint64, kept int) {
		t.Helper()
		got, at, err := s.Load()
		if err != nil || at != revision || !reflect.DeepEqual(got, state) {
			t.Errorf("got %+v at %d, %v\nwant %+v at %d", got, at, err, state, revision)
		}
		if n := contents(t, s); n != kept {
			t.Errorf("the file keeps what is on %d lists, want %d", n, kept)
		}
	}
	save(t, s, state)
	expect(1, 2)
	if at := save(t, s, state); at != 1 {
		t.Errorf("saving the same again makes revision %d", at)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	expect(1, 2)
	state.SourceLists[0] = sourceList(t, "a", "10.0.0.0/8")
	save(t, s, state)
	expect(2, 3)
	history, err := s.History(1)
	if err != nil || len(history) != 1 || !reflect.DeepEqual(history[0].Changes, []Change{{KindSourceList, "a", Changed}}) {
		t.Errorf("history %+v, %v", history, err)
	}
	state.SourceLists, state.Sources = nil, model.NodeSources{}
	save(t, s, state)
	expect(3, 0)
}

// TestDamagedSourceList: a list that is not what its record says is not read.
func TestDamagedSourceList(t *testing.T) {
	l := sourceList(t, "a", "192.0.2.0/24")
	for name, damage := range map[string]func(*bbolt.Tx) error{
		"missing": func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketPrefixes)).Delete(l.Digest[:]) },
		"another": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucketPrefixes)).Put(l.Digest[:], []byte{24, 192, 0, 3, 0})
		},
		"cut off": func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketPrefixes)).Put(l.Digest[:], []byte{24, 192}) },
		"record": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucketLists)).Put([]byte("a"), []byte(`{"digest":"x"}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "state.db"))
			save(t, s, model.State{SourceLists: []model.SourceList{l}})
			if err := s.update(damage); err != nil {
				t.Fatal(err)
			}
			if state, _, err := s.Load(); err == nil {
				t.Errorf("loaded %+v", state)
			}
		})
	}
}

// TestFileWithoutLists: files of schema 3 lack the buckets, and get them.
func TestFileWithoutLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	err := s.update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketLists, bucketPrefixes, bucketNode} {
			if err := tx.DeleteBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(keySchema), []byte("3"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	state := model.State{SourceLists: []model.SourceList{sourceList(t, "a", "192.0.2.0/24")}}
	save(t, s, state)
	if got, _, err := s.Load(); err != nil || !reflect.DeepEqual(got, state) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestLimitsAreKept: as they were given, and none where there are none.
func TestLimitsAreKept(t *testing.T) {
	for _, l := range []model.Limits{
		{},
		{Connections: model.Limit{Rate: 5}},
		{
			Connections: model.Limit{Rate: 1000, Burst: 20, Observe: true}, Packets: model.Limit{Rate: 7}, SourceConnections: model.Limit{Rate: 8, Observe: true},
			SourcePackets: model.Limit{Rate: 9, Burst: 9}, IPv4Prefix: 24, IPv6Prefix: 48,
		},
	} {
		v := model.VIP{
			Name: "web", Endpoints: endpoints("192.0.2.1:80"), Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "web", Tracking: model.TrackingFlux,
			IdleTimeout: model.DefaultIdleTimeout, Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow,
			Limits: l, Sources: model.Sources{Deny: "a"},
		}
		data, err := encodeVIP(v)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeVIP("web", data); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%s: %+v, %v, want %+v", data, got, err, v)
		}
	}
}

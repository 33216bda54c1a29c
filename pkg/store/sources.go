package store

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Source lists are large and change as a whole. So a list's record names what is on
// it by a digest, and that is kept once, however often the state is written.

type listRecord struct {
	// Digest in hexadecimal digits.
	Digest string `json:"digest"`
}

type sourcesRecord struct {
	Deny  string `json:"deny,omitempty"`
	Allow string `json:"allow,omitempty"`
}

type nodeSourcesRecord struct {
	sourcesRecord
	Bogus string `json:"bogus,omitempty"`
}

// encodeSources leaves out what says nothing.
func encodeSources(s model.Sources) *sourcesRecord {
	if s == (model.Sources{}) {
		return nil
	}
	return &sourcesRecord{s.Deny, s.Allow}
}

func (r *sourcesRecord) sources() model.Sources {
	if r == nil {
		return model.Sources{}
	}
	return model.Sources(*r)
}

// loadSources reads source lists, and the sources of the node. Files of older schemas
// have none.
func (s *Store) loadSources(tx *bbolt.Tx, state *model.State) error {
	lists, prefixes, node := tx.Bucket([]byte(bucketLists)), tx.Bucket([]byte(bucketPrefixes)), tx.Bucket([]byte(bucketNode))
	if lists == nil || prefixes == nil || node == nil {
		return nil
	}
	err := lists.ForEach(func(name, data []byte) error {
		l, err := loadList(string(name), data, prefixes)
		if err != nil {
			return fmt.Errorf("read store %s: source list %q: %w", s.path, name, err)
		}
		state.SourceLists = append(state.SourceLists, l)
		return nil
	})
	if err != nil {
		return err
	}
	data := node.Get([]byte(keySources))
	if data == nil {
		return nil
	}
	var r nodeSourcesRecord
	if err := decode(data, &r); err != nil {
		return fmt.Errorf("read store %s: sources of the node: %w", s.path, err)
	}
	state.Sources = model.NodeSources{Sources: r.sources(), Bogus: r.Bogus}
	return nil
}

func loadList(name string, data []byte, prefixes *bbolt.Bucket) (model.SourceList, error) {
	var r listRecord
	if err := decode(data, &r); err != nil {
		return model.SourceList{}, err
	}
	digest, err := hex.DecodeString(r.Digest)
	if err != nil {
		return model.SourceList{}, fmt.Errorf("digest: %w", err)
	}
	content := prefixes.Get(digest)
	if content == nil {
		return model.SourceList{}, fmt.Errorf("what is on it is missing: %s", r.Digest)
	}
	l, err := model.DecodeSourceList(name, content)
	if err == nil && l.Digest.String() != r.Digest {
		err = fmt.Errorf("what is on it is not %s", r.Digest)
	}
	return l, err
}

// sourcesWriter is [writer] for source lists and the sources of the node.
func sourcesWriter(state model.State) (func(*bbolt.Tx) ([]Change, error), error) {
	records, err := encodeAll(state.SourceLists, func(l model.SourceList) string { return l.Name }, func(l model.SourceList) ([]byte, error) {
		return encode(listRecord{l.Digest.String()})
	})
	if err != nil {
		return nil, fmt.Errorf("source list %w", err)
	}
	node := map[string][]byte{}
	if s := state.Sources; s != (model.NodeSources{}) {
		if node[keySources], err = encode(nodeSourcesRecord{sourcesRecord(s.Sources), s.Bogus}); err != nil {
			return nil, err
		}
	}
	return func(tx *bbolt.Tx) ([]Change, error) {
		if err := keepPrefixes(tx.Bucket([]byte(bucketPrefixes)), state.SourceLists); err != nil {
			return nil, err
		}
		changes, err := replace(tx.Bucket([]byte(bucketLists)), KindSourceList, records)
		if err != nil {
			return nil, err
		}
		more, err := replace(tx.Bucket([]byte(bucketNode)), KindNode, node)
		return append(changes, more...), err
	}, nil
}

// keepPrefixes makes the bucket hold what is on these lists, and nothing else.
func keepPrefixes(bucket *bbolt.Bucket, lists []model.SourceList) error {
	wanted := map[string]bool{}
	for i := range lists {
		l := &lists[i]
		wanted[string(l.Digest[:])] = true
		if bucket.Get(l.Digest[:]) == nil {
			if err := bucket.Put(l.Digest[:], l.Encode()); err != nil {
				return fmt.Errorf("source list %q: %w", l.Name, err)
			}
		}
	}
	var gone [][]byte
	err := bucket.ForEach(func(digest, _ []byte) error {
		if !wanted[string(digest)] {
			gone = append(gone, bytes.Clone(digest))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, digest := range gone {
		if err := bucket.Delete(digest); err != nil {
			return err
		}
	}
	return nil
}

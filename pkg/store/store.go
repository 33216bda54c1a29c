// Package store keeps desired state in an embedded database: one file, one
// revision per change, with a history of what changed. Beside it lie the last
// known health, so that a restart does not begin from zero, and the node's hash
// seed.
//
// Every object is a record of its own, as JSON in the operator's words, so that
// a small change to a large state writes little. A record that cannot be read to
// the last field is refused, never half-read: see [Open].
package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// schema is the version of the layout below and of the records. A change that
// older programs would misread raises it. Records of an older version are read
// with the defaults of what they lack, and written anew when the file is opened.
//
//   - 2: tracking and idle timeout of VIPs, grace, slow start and draining in pools
//   - 3: endpoints instead of one address and port, affinity, fragments, MSS and
//     QUIC of VIPs, server IDs of backends
//   - 4: source lists, and those that VIPs and the node name
const schema = 4

// The buckets of the database, and the keys of the bucket meta.
const (
	bucketMeta    = "meta"    // the keys below
	bucketVIPs    = "vips"    // name: vipRecord
	bucketPools   = "pools"   // name: poolRecord
	bucketHistory = "history" // revision, 8 bytes big-endian: entryRecord
	bucketHealth  = "health"  // pool, backend, check, separated by zeros: healthRecord

	// What follows is not in files of schema 1 to 3.
	bucketLists    = "source_lists"    // name: listRecord
	bucketPrefixes = "source_prefixes" // digest, 32 bytes: [model.SourceList.Encode]
	bucketNode     = "node"            // the keys below

	keySources = "sources" // nodeSourcesRecord

	keySchema   = "schema"    // decimal
	keyRevision = "revision"  // 8 bytes, big-endian
	keyHashSeed = "hash_seed" // 16 bytes
)

// lockTimeout bounds the wait for another process to let go of the file. It
// covers a daemon that is just stopping.
const lockTimeout = 2 * time.Second

// ErrConflict says that the state was changed since the caller read it.
var ErrConflict = errors.New("the state was changed in the meantime")

// errUnchanged rolls a transaction back that has nothing to write.
var errUnchanged = errors.New("unchanged")

// Store is an open database. Its methods may be called concurrently. Each
// either does all of its work or, if it returns an error, none of it; what a
// method has written is on disk when it returns.
type Store struct {
	path string
	db   *bbolt.DB
	file *os.File
	// corrupt is set for good once the file turns out to be damaged. The
	// database may then hold locks that it will never release.
	corrupt atomic.Pointer[error]
}

// Open opens the store in that file, or makes one with mode 0600 and its
// directories with 0750. It reads every record once, so that a damaged file, a
// file of a newer version and a file that is not a store are refused here. A file
// of an older version is brought to this one's, once all of it could be read;
// the older program then refuses it. While a process has it open, other processes cannot open it.
//
// The caller must Close the store.
func Open(path string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{path: path}
	if err := s.guard(s.open); err != nil {
		s.closeFile()
		return nil, err
	}
	if err := s.verify(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	var err error
	s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout: lockTimeout,
		OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
			var err error
			s.file, err = os.OpenFile(name, flag, mode)
			return s.file, err
		},
	})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return fmt.Errorf("open store: %s is in use by another process; is another steelyard daemon running?", s.path)
	case errors.Is(err, bberrors.ErrInvalid), errors.Is(err, bberrors.ErrChecksum), errors.Is(err, bberrors.ErrVersionMismatch):
		return s.damaged(err)
	case err != nil:
		return fmt.Errorf("open store %s: %w", s.path, err)
	}
	return nil
}

// verify initializes an empty store, or makes sure that this program can read
// all of one that exists.
func (s *Store) verify() error {
	found, err := s.checkSchema()
	if err != nil {
		return err
	}
	if found == 0 {
		return s.update(initialize)
	}
	state, _, err := s.Load()
	if err != nil {
		return err
	}
	if _, err := s.LoadHealth(); err != nil {
		return err
	}
	if _, err = s.History(historyLength); err != nil {
		return err
	}
	if found < schema {
		return s.upgrade(state)
	}
	return nil
}

// upgrade writes all records as this version does. To the operator nothing has
// changed: the revision stays.
func (s *Store) upgrade(state model.State) error {
	write, err := writer(state)
	if err != nil {
		return fmt.Errorf("upgrade store %s: %w", s.path, err)
	}
	return s.update(func(tx *bbolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		if _, err := write(tx); err != nil {
			return err
		}
		return setSchema(tx)
	})
}

// checkSchema returns the version of the file's schema, 0 for an empty file.
func (s *Store) checkSchema() (found int, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		if meta == nil {
			if name, _ := tx.Cursor().First(); name != nil {
				return fmt.Errorf("%s is not a Steelyard store: it is another program's database", s.path)
			}
			return nil
		}
		found, err = strconv.Atoi(string(meta.Get([]byte(keySchema))))
		switch {
		case err != nil || found < 1:
			return fmt.Errorf("%s is not a Steelyard store: its schema version is %q", s.path, meta.Get([]byte(keySchema)))
		case found > schema:
			return fmt.Errorf("store %s was written by a newer version of Steelyard (schema %d; this one reads %d): run that version, or name another file",
				s.path, found, schema)
		}
		for _, name := range bucketsOf(found) {
			if tx.Bucket([]byte(name)) == nil {
				return s.damaged(fmt.Errorf("bucket %q is missing", name))
			}
		}
		return nil
	})
	return found, err
}

// bucketsOf are those that a file of a schema has.
func bucketsOf(schema int) []string {
	all := []string{bucketMeta, bucketVIPs, bucketPools, bucketHistory, bucketHealth}
	if schema >= 4 {
		all = append(all, bucketLists, bucketPrefixes, bucketNode)
	}
	return all
}

func initialize(tx *bbolt.Tx) error {
	if err := makeBuckets(tx); err != nil {
		return err
	}
	if err := setRevision(tx, 0); err != nil {
		return err
	}
	return setSchema(tx)
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, name := range bucketsOf(schema) {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

func setSchema(tx *bbolt.Tx) error {
	return tx.Bucket([]byte(bucketMeta)).Put([]byte(keySchema), strconv.AppendInt(nil, schema, 10))
}

// HashSeed returns the node's 128-bit hash seed, which the first call makes.
func (s *Store) HashSeed() ([16]byte, error) {
	var seed [16]byte
	err := s.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		kept := meta.Get([]byte(keyHashSeed))
		switch {
		case len(kept) == len(seed):
			seed = [16]byte(kept)
			return errUnchanged
		case kept != nil:
			return s.damaged(fmt.Errorf("the hash seed has %d bytes", len(kept)))
		}
		rand.Read(seed[:]) // never fails: crypto/rand ends the program instead
		return meta.Put([]byte(keyHashSeed), seed[:])
	})
	if err != nil {
		return [16]byte{}, err
	}
	return seed, nil
}

// Close waits for transactions to end and lets go of the file.
func (s *Store) Close() error {
	if s.corrupt.Load() != nil {
		s.closeFile()
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

// closeFile releases the lock of a database that can no longer be closed in the
// proper way. Closing alone would not do: the mapping of the file holds on to
// it. The file is closed already if the database got that far itself.
func (s *Store) closeFile() {
	if s.file != nil && syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN) == nil {
		s.file.Close()
	}
}

func (s *Store) view(read func(*bbolt.Tx) error) error {
	return s.guard(func() error { return s.db.View(read) })
}

// update runs a transaction that is rolled back if write returns an error; for
// [errUnchanged] that is no failure.
func (s *Store) update(write func(*bbolt.Tx) error) error {
	return s.guard(func() error {
		err := s.db.Update(write)
		if err == nil || errors.Is(err, errUnchanged) {
			return nil
		}
		if errors.Is(err, ErrConflict) {
			return err
		}
		return fmt.Errorf("write store %s: %w", s.path, err)
	})
}

// guard turns what the database does about a damaged file, to panic or to fault
// on the mapping, into an error.
func (s *Store) guard(work func() error) (err error) {
	if known := s.corrupt.Load(); known != nil {
		return *known
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = s.damaged(fmt.Errorf("%v", cause))
			s.corrupt.Store(&err)
		}
	}()
	return work()
}

func (s *Store) damaged(cause error) error {
	return fmt.Errorf("store %s is damaged (%w): restore it from a backup, or move it away to begin with an empty one", s.path, cause)
}

func revision(tx *bbolt.Tx) uint64 {
	if v := tx.Bucket([]byte(bucketMeta)).Get([]byte(keyRevision)); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func setRevision(tx *bbolt.Tx, revision uint64) error {
	return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyRevision), binary.BigEndian.AppendUint64(nil, revision))
}

package store

import (
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// CheckHealth is what was last known of one check of one backend: the part of
// [model.CheckStatus] that changes on transitions only.
type CheckHealth struct {
	Pool    string
	Backend model.BackendID
	Check   string

	Health model.Health
	// Since is when Health last changed, in UTC.
	Since time.Time
	// Result and Detail are those of the probe that changed it; Reason says why.
	Result, Detail, Reason string
}

type healthRecord struct {
	Health string    `json:"health"`
	Since  time.Time `json:"since,omitzero"`
	Result string    `json:"result,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

func (h CheckHealth) key() string {
	return strings.Join([]string{h.Pool, h.Backend.String(), h.Check}, "\x00")
}

// SaveHealth replaces the last known health as a whole. It is no part of the
// desired state: it has no revision and no history. Only what differs is
// written, and nothing at all if nothing does.
func (s *Store) SaveHealth(all []CheckHealth) error {
	records, err := encodeAll(all, CheckHealth.key, func(h CheckHealth) ([]byte, error) {
		return encode(healthRecord{h.Health.String(), h.Since.UTC(), h.Result, h.Detail, h.Reason})
	})
	if err != nil {
		return fmt.Errorf("save health: %w", err)
	}
	return s.update(func(tx *bbolt.Tx) error {
		changes, err := replace(tx.Bucket([]byte(bucketHealth)), "health", records)
		if err == nil && len(changes) == 0 {
			return errUnchanged
		}
		return err
	})
}

// LoadHealth returns the last known health, sorted by pool, in no order within it.
func (s *Store) LoadHealth() ([]CheckHealth, error) {
	var all []CheckHealth
	err := s.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketHealth)).ForEach(func(key, data []byte) error {
			h, err := decodeHealth(string(key), data)
			if err != nil {
				return fmt.Errorf("read store %s: health %q: %w", s.path, key, err)
			}
			all = append(all, h)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func decodeHealth(key string, data []byte) (CheckHealth, error) {
	var r healthRecord
	if err := decode(data, &r); err != nil {
		return CheckHealth{}, err
	}
	parts := strings.Split(key, "\x00")
	if len(parts) != 3 {
		return CheckHealth{}, fmt.Errorf("the key has %d parts, want 3", len(parts))
	}
	backend, err := model.ParseBackendID(parts[1])
	if err != nil {
		return CheckHealth{}, err
	}
	health, err := parseHealth(r.Health)
	if err != nil {
		return CheckHealth{}, err
	}
	return CheckHealth{parts[0], backend, parts[2], health, r.Since, r.Result, r.Detail, r.Reason}, nil
}

func parseHealth(s string) (model.Health, error) {
	for _, h := range []model.Health{model.HealthUnknown, model.HealthUp, model.HealthDown} {
		if h.String() == s {
			return h, nil
		}
	}
	return 0, fmt.Errorf("unknown health %q", s)
}

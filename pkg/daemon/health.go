package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/store"
)

// keepInterval is how often changed health goes to disk. What a crash loses is
// found again by the next probes.
const keepInterval = 5 * time.Second

// restoreHealth starts checks from what was last known instead of from nothing.
func restoreHealth(s *store.Store, c *health.Checker) error {
	all, err := s.LoadHealth()
	if err != nil {
		return err
	}
	now := time.Now()
	last := make(map[health.Key]model.CheckStatus, len(all))
	for _, h := range all {
		last[health.Key{Pool: h.Pool, Backend: h.Backend, Check: h.Check}] = model.CheckStatus{
			Name: h.Check, Health: h.Health, Since: h.Since, Result: h.Result, Detail: h.Detail, Reason: h.Reason,
			// As if checks had gone on: one probe that fails after a restart is
			// one probe that fails.
			Checked: now,
		}
	}
	c.Restore(last)
	return nil
}

// keepHealth writes what is known to the store, now and then and at the end.
func keepHealth(ctx context.Context, c *health.Checker, s *store.Store, log *slog.Logger) error {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return saveHealth(c, s)
		case <-tick.C:
		}
		err := saveHealth(c, s)
		if err != nil && !failing {
			log.Error("cannot keep the last known health; checks go on", "error", err)
		}
		failing = err != nil
	}
}

func saveHealth(c *health.Checker, s *store.Store) error {
	var all []store.CheckHealth
	for key, status := range c.Snapshot().All() {
		if status.Health == model.HealthUnknown {
			continue
		}
		all = append(all, store.CheckHealth{
			Pool: key.Pool, Backend: key.Backend, Check: key.Check,
			Health: status.Health, Since: status.Since, Result: status.Result, Detail: status.Detail, Reason: status.Reason,
		})
	}
	return s.SaveHealth(all)
}

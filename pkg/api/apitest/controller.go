// Package apitest serves the API from memory, for tests of what talks to it.
package apitest

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Controller is an [api.Controller] that balances nothing.
type Controller struct {
	mu       sync.Mutex // guards what follows
	state    model.State
	revision uint64
	notes    []string
	observe  func(*model.Status)
	failure  error
}

// Desired implements [api.Controller].
func (c *Controller) Desired() (model.State, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.revision
}

// Change implements [api.Controller].
func (c *Controller) Change(_ context.Context, expect uint64, note string, mutate func(*model.State) error) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if expect != 0 && expect != c.revision {
		return 0, &model.RevisionError{Expected: expect, Actual: c.revision}
	}
	next := c.state.Clone()
	if err := mutate(&next); err != nil {
		return 0, err
	}
	next.Sort()
	if err := next.Validate(); err != nil {
		return 0, err
	}
	c.state, c.revision = next, c.revision+1
	c.notes = append(c.notes, note)
	return c.revision, nil
}

// Notes returns what the changes so far were for.
func (c *Controller) Notes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.notes...)
}

// Observe makes every status pass through f, which fills in what a data plane
// and health checks would.
func (c *Controller) Observe(f func(*model.Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observe = f
}

// Fail makes every status fail with err, until it is nil.
func (c *Controller) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
}

// Status implements [api.Controller]: everything applied, nothing yet checked.
func (c *Controller) Status(ctx context.Context) (model.Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return model.Status{}, c.failure
	}
	s := model.Status{Revision: c.revision, Applied: c.revision}
	for _, v := range c.state.VIPs {
		s.VIPs = append(s.VIPs, model.VIPStatus{VIP: v})
	}
	for _, p := range c.state.Pools {
		pool := model.PoolStatus{Name: p.Name, TableSize: p.TableSize, OnAllDown: p.OnAllDown}
		for _, b := range p.Backends {
			pool.Backends = append(pool.Backends, model.BackendStatus{Backend: b})
		}
		s.Pools = append(s.Pools, pool)
	}
	if c.observe != nil {
		c.observe(&s)
	}
	return s, ctx.Err()
}

// Serve serves the API on a socket of its own until the test ends, and returns the
// socket's path. Deadlines count from what the clock says.
func Serve(t testing.TB, c api.Controller, clock func() time.Time) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := api.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(api.NewHandler(c, clock))
	server := &http.Server{Handler: mux}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); err != http.ErrServerClosed {
			t.Errorf("serve the API: %v", err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("stop the API: %v", err)
		}
		<-ended
	})
	return path
}

package dataplane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// bpffs is a directory that Open mounts a bpffs on, gone with the test.
func bpffs(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

var pinLimits = Limits{VIPs: 16, Endpoints: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: 1 << 16}

// reopen gives the rig another Plane over what the last one left pinned, as a
// daemon does that starts after another was killed.
func (r *fluxRig) reopen(path string) {
	r.Helper()
	r.reopenWith(path, pinLimits)
}

func (r *fluxRig) reopenWith(path string, limits Limits) {
	r.Helper()
	if err := r.plane.Close(); err != nil {
		r.Fatal(err)
	}
	plane, err := Open(path, limits, Options{Seed: Seed{1, 2}})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { plane.Close() })
	r.plane, r.now = plane, plane.Clock()
	r.state.Pools = nil
}

func pinnedRig(t *testing.T) (*fluxRig, string) {
	r, path := newFluxRig(t, model.TrackingFlux, model.TCP), bpffs(t)
	r.reopen(path)
	for n := 1; n < 4; n++ {
		r.add(0, n)
	}
	r.apply()
	return r, path
}

func TestRestartKeepsFlows(t *testing.T) {
	t.Parallel()
	for name, churn := range churns {
		t.Run(name, func(t *testing.T) {
			r, path := pinnedRig(t)
			old := r.open(0, flows)
			r.reopen(path)
			if !r.plane.Adopted() {
				t.Fatal("nothing adopted")
			}
			broken := r.broken(old)
			churn(r)
			young := r.open(flows, flows)
			r.reopen(path)
			broken += r.broken(old) + r.broken(young)
			churn(r)
			r.reopen(path)
			r.apply()
			if broken += r.broken(old) + r.broken(young); broken > 0 {
				t.Errorf("%d flows broken", broken)
			}
			for range 4 {
				r.pass(11 * time.Second)
			}
			if r.plane.NeedsSweep() {
				t.Error("it does not settle after a restart")
			}
		})
	}
}

// The control: without the pins a restart forgets.
func TestRestartWithoutPinsForgets(t *testing.T) {
	r, path := pinnedRig(t)
	old := r.open(0, flows)
	r.set(0, 1, model.Draining)
	r.apply()
	broken := r.broken(old)
	if err := r.plane.Detach(); err != nil {
		t.Fatal(err)
	}
	r.reopen(path)
	r.apply()
	if r.plane.Adopted() || broken > 0 || r.broken(old) == 0 {
		t.Error("no flow broken: the test shows nothing")
	}
}

func TestForeignPinsAreRefused(t *testing.T) {
	open := func(path string, limits Limits, seed Seed) string {
		p, err := Open(path, limits, Options{Seed: seed})
		if err == nil {
			p.Close()
			t.Fatal("accepted")
		}
		return err.Error()
	}
	_, path := pinnedRig(t)
	if got := open(path, pinLimits, Seed{1, 2}); !strings.Contains(got, "another daemon") {
		t.Error(got)
	}
	r, path := pinnedRig(t)
	r.plane.Close()
	smaller := pinLimits
	smaller.Backends = 4
	if got := open(path, smaller, Seed{1, 2}); !strings.Contains(got, "beyond the 4 that there are") {
		t.Error(got)
	}
	if got := open(path, pinLimits, Seed{3, 4}); !strings.Contains(got, "hash_seed") {
		t.Error(got)
	}
	other := fmt.Sprintf("v%d", layout+1)
	if err := os.Mkdir(filepath.Join(path, other), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := open(path, pinLimits, Seed{1, 2}); !strings.Contains(got, other) {
		t.Error(got)
	}
	if err := Unpin(path); err != nil {
		t.Fatal(err)
	}
	p, err := Open(path, smaller, Options{Seed: Seed{3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}

// A start that was killed before the ledger was pinned leaves what the next clears.
func TestUnfinishedPinsAreCleared(t *testing.T) {
	r, path := pinnedRig(t)
	if err := os.Remove(r.plane.pin.mapPath(lbMapLedger)); err != nil {
		t.Fatal(err)
	}
	r.reopen(path)
	if r.plane.Adopted() {
		t.Error("adopted what was never finished")
	}
	r.apply()
	r.open(0, 10)
}

// Other limits: everything is carried over, flows that come in between as well.
func TestOtherLimitsKeepFlows(t *testing.T) {
	t.Parallel()
	larger := Limits{VIPs: 64, Endpoints: 64, Pools: 32, Backends: 1024, Slots: 1 << 18, Flows: 1 << 18}
	smaller := Limits{VIPs: 8, Endpoints: 8, Pools: 12, Backends: 128, Slots: 1 << 15, Flows: 1 << 15}
	for name, limits := range map[string]Limits{"larger": larger, "smaller": smaller} {
		t.Run(name, func(t *testing.T) {
			r, path := pinnedRig(t)
			old := r.open(0, flows)
			churns["drain"](r)
			broken := r.broken(old)
			young := r.open(flows, flows)
			counted, err := r.plane.Counters()
			if err != nil {
				t.Fatal(err)
			}
			r.reopenWith(path, limits)
			r.apply()
			if now, err := r.plane.Counters(); err != nil || now.VIPs["web"] != counted.VIPs["web"] {
				t.Errorf("the VIP counts %+v, %v, before %+v", now.VIPs["web"], err, counted.VIPs["web"])
			}
			broken += r.broken(young)

			// What the former program still sees until the new one is in its place.
			former, err := mapMemory[lbFlowBucket](r.plane.former[lbMapFlows])
			if err != nil {
				t.Fatal(err)
			}
			const late = 0x1234567890abcdef | 2
			e := &former.elements[late>>2&(len(former.elements)-1)].Flow[3]
			e.State = r.anyState()
			e.Key = sealFlow(late, e.State)
			if err := former.close(); err != nil {
				t.Fatal(err)
			}
			if err := r.plane.Attach(model.XDPAuto); err != nil {
				t.Fatal(err)
			}
			if !r.knows(late) {
				t.Error("a flow that came late is not known")
			}
			r.reopenWith(path, limits)
			r.apply()
			if broken += r.broken(old) + r.broken(young); broken > 0 {
				t.Errorf("%d flows broken", broken)
			}
		})
	}
}

// anyState is the state of some flow in the table.
func (r *fluxRig) anyState() uint64 {
	for i := range r.plane.flows.elements {
		for _, f := range r.plane.flows.elements[i].Flow {
			if f.Key != 0 {
				return f.State
			}
		}
	}
	r.Fatal("the flow table is empty")
	return 0
}

func (r *fluxRig) knows(key uint64) bool {
	bucket := r.plane.flows.elements[int(key>>2)&(len(r.plane.flows.elements)-1)]
	for _, f := range bucket.Flow {
		if sealFlow(f.Key, f.State) == key {
			return true
		}
	}
	return false
}

// A start with other limits that is killed before or after the maps change places
// leaves what the next start goes on with.
func TestResizeIsRepaired(t *testing.T) {
	t.Parallel()
	larger := pinLimits
	larger.Flows = 1 << 18
	for name, promote := range map[string]bool{"before": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			r, path := pinnedRig(t)
			old := r.open(0, flows)
			churns["drain"](r)
			broken := r.broken(old)
			young := r.open(flows, flows)
			r.reopenWith(path, larger)
			if promote {
				if err := r.plane.pin.promote(); err != nil {
					t.Fatal(err)
				}
			}
			r.reopenWith(path, larger)
			r.apply()
			if broken += r.broken(old) + r.broken(young); broken > 0 {
				t.Errorf("%d flows broken", broken)
			}
		})
	}
}

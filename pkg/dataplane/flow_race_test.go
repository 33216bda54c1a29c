package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

const (
	raceFlows    = 24
	raceBackends = 60
	raceSenders  = 3
	racePackets  = 100_000
)

// race is a flow table of one bucket and flows of a VIP that has moved to another
// pool: every packet from the middle of one goes to its backend on the prior pool,
// whatever the table holds. Each flow has a backend of its own, so that a packet
// that followed another flow's entry shows.
type race struct {
	*fluxRig
	flows       []uint32
	backend     map[uint32]int
	frames      [][]byte
	misdirected atomic.Int64
}

func newRace(t *testing.T) *race {
	r := &race{fluxRig: newFluxRig(t, model.TrackingFlux, model.TCP), backend: map[uint32]int{}}
	r.plane = loaded(t, Limits{VIPs: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: flowsPerBucket})
	r.plane.SetClock(r.now)
	for n := 1; n <= raceBackends; n++ {
		r.add(0, n)
	}
	r.add(1, 1)
	r.apply()
	taken := map[int]bool{}
	for f := uint32(0); len(r.flows) < raceFlows; f++ {
		to := r.send(f, ack)
		if to < 0 {
			t.Fatalf("flow %d dropped", f)
		}
		if taken[to] {
			continue
		}
		taken[to] = true
		r.backend[f] = to
		r.flows = append(r.flows, f)
		r.frames = append(r.frames, r.frame(f, ack))
	}
	r.desired.VIPs[0].Pool = "b"
	r.apply()
	if len(r.plane.flows.elements) != 1 {
		t.Fatalf("%d buckets, want one", len(r.plane.flows.elements))
	}
	return r
}

// words are sealed key and state of a flow's entry as the packet path writes them.
func (r *race) words(i int) (key, state uint64) {
	at := r.plane.applied.places["a"]
	backend := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.backend[r.flows[i]])})
	index := at.base() + at.owners[model.BackendID{Address: backend}]
	state = encodeState(flux.Entry{Backend: index, Seen: r.now, Confirmed: true}, r.plane.applied.vips["web"].id)
	return sealFlow(r.hash(r.flows[i])|flowKey, state), state
}

// flood sends packets of random flows and counts those that went elsewhere than to
// their flow's backend. One packet a run: an interrupted run of many starts again.
func (r *race) flood(seed uint64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	random := rand.New(rand.NewPCG(seed, seed))
	for range racePackets {
		i, out := random.IntN(raceFlows), make([]byte, 128)
		verdict, err := r.plane.Program().Run(&ebpf.RunOptions{Data: r.frames[i], DataOut: out})
		if err != nil || verdict != xdpTX {
			r.Errorf("flow %d: verdict %d, %v", r.flows[i], verdict, err)
			return
		}
		if int(binary.BigEndian.Uint16(out[4:])) != r.backend[r.flows[i]] {
			r.misdirected.Add(1)
		}
	}
}

// run sends from several threads while a meddler writes to the bucket, and returns
// how many packets followed another flow's entry.
func (r *race) run(meddle func(*race, *lbFlowBucket)) int64 {
	var senders, other sync.WaitGroup
	for n := range raceSenders {
		senders.Go(func() { r.flood(uint64(n)) })
	}
	ended := atomic.Bool{}
	other.Go(func() {
		for !ended.Load() {
			meddle(r, &r.plane.flows.elements[0])
		}
	})
	senders.Wait()
	ended.Store(true)
	other.Wait()
	return r.misdirected.Load()
}

// drops empties entries, as a sweep does.
func drops(_ *race, b *lbFlowBucket) {
	for i := range b.Flow {
		if key, state, ok := loadFlow(&b.Flow[i]); ok {
			dropFlow(&b.Flow[i], key, state)
		}
	}
}

// rewrites gives an entry to two flows by turns by the protocol, as fast as it
// can: packets of both find the same key before and after what was in between.
func rewrites(r *race, b *lbFlowBucket) {
	e := &b.Flow[0]
	for i := range 2 {
		key, state := r.words(i)
		before := atomic.LoadUint64(&e.Key)
		if before == flowClaimed || !atomic.CompareAndSwapUint64(&e.Key, before, flowClaimed) {
			continue
		}
		atomic.StoreUint64(&e.State, state)
		atomic.CompareAndSwapUint64(&e.Key, flowClaimed, key)
	}
}

// keysFirst breaks the protocol: keys are there before their states.
func keysFirst(r *race, b *lbFlowBucket) {
	for i := range b.Flow {
		key, state := r.words(rand.IntN(raceFlows))
		atomic.StoreUint64(&b.Flow[i].Key, key)
		runtime.Gosched()
		atomic.StoreUint64(&b.Flow[i].State, state)
	}
}

// swaps breaks it too: states change places under unchanged keys.
func swaps(_ *race, b *lbFlowBucket) {
	first, second := &b.Flow[0], &b.Flow[1]
	state := atomic.SwapUint64(&first.State, atomic.LoadUint64(&second.State))
	atomic.StoreUint64(&second.State, state)
}

// TestNoTornRead: key and state that were not written together are never taken
// together, not even from writers that break the protocol.
func TestNoTornRead(t *testing.T) {
	t.Parallel()
	for name, meddler := range map[string]func(*race, *lbFlowBucket){
		"sweep": drops, "writer": rewrites, "key before state": keysFirst, "states under unchanged keys": swaps,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRace(t)
			if n := r.run(meddler); n != 0 {
				t.Errorf("%d packets followed another flow's entry", n)
			}
			if e := r.events(); e.Remembered < racePackets/10 || e.EvictedPrior == 0 {
				t.Errorf("the bucket was hardly contended: %+v", e)
			}
		})
	}
}

// The control: without seals the same writers mislead packets. A key that is sealed
// for whatever state stands there, or will, is one without a seal.
func TestTornReadsShow(t *testing.T) {
	r := newRace(t)
	n := r.run(func(r *race, b *lbFlowBucket) {
		for i := range b.Flow {
			key, state := r.words(rand.IntN(raceFlows))
			old := atomic.LoadUint64(&b.Flow[i].State)
			atomic.StoreUint64(&b.Flow[i].Key, sealFlow(sealFlow(key, state), old))
			runtime.Gosched()
			atomic.StoreUint64(&b.Flow[i].State, state)
			atomic.StoreUint64(&b.Flow[i].Key, key)
		}
	})
	if n == 0 {
		t.Error("no packet misdirected: the test shows nothing")
	}
}

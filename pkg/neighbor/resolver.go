package neighbor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Resolver keeps a [Table] of the next hops of a set of addresses. Its methods
// may be called from several goroutines at once.
type Resolver struct {
	kernel  *netlink.Handle
	changes *subscription

	// debounce is how long changes are collected before they are looked at;
	// retryEvery the pause between attempts to resolve neighbours that do not
	// answer; resyncEvery the time between two looks at everything.
	debounce, retryEvery, resyncEvery time.Duration

	// mu guards wanted.
	mu      sync.Mutex
	wanted  []netip.Addr
	wake    chan struct{}
	changed chan struct{}
	table   atomic.Pointer[Table]
}

// New returns a Resolver for the network namespace of the calling thread. It
// needs CAP_NET_ADMIN. It holds two netlink sockets, which [Resolver.Run]
// closes when it returns, or [Resolver.Close] if Run is never called.
func New() (*Resolver, error) {
	changes, err := subscribe(receiveBuffer)
	if err != nil {
		return nil, fmt.Errorf("follow next hops: %w", err)
	}
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		changes.close()
		return nil, fmt.Errorf("follow next hops: open a netlink socket: %w", err)
	}
	r := &Resolver{
		kernel:      kernel,
		changes:     changes,
		debounce:    30 * time.Millisecond,
		retryEvery:  5 * time.Second,
		resyncEvery: 30 * time.Second,
		wake:        make(chan struct{}, 1),
		changed:     make(chan struct{}, 1),
	}
	r.table.Store(&Table{})
	return r, nil
}

// Close releases the sockets of a Resolver that does not run.
func (r *Resolver) Close() {
	r.changes.close()
	r.kernel.Close()
}

// Set replaces the set of addresses. It does not wait: the table has a new
// address when Run has looked at it. IPv4-mapped addresses are taken as IPv4.
func (r *Resolver) Set(addrs []netip.Addr) {
	r.mu.Lock()
	r.wanted = slices.Clone(addrs)
	r.mu.Unlock()
	notify(r.wake)
}

// Table returns the current next hops; the caller must not write to it.
func (r *Resolver) Table() Table { return *r.table.Load() }

// Changed receives after the table was replaced, once for any number of
// replacements since the last receive.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

// Run follows the kernel until ctx is done, then returns nil; it returns an
// error if the kernel cannot be followed any more. It may be called once.
func (r *Resolver) Run(ctx context.Context) error {
	notices := make(chan notice, 64)
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { r.changes.watch(notices, done) })
	defer watcher.Wait()
	// Closing the socket is what ends a read that waits.
	defer r.Close()
	defer close(done)

	retry := time.NewTicker(r.retryEvery)
	defer retry.Stop()
	resync := time.NewTicker(r.resyncEvery)
	defer resync.Stop()
	// settle fires at once at first; a nil channel while nothing is to do.
	settle := time.After(0)
	s := newState(r.kernel)
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-notices:
			if n.err != nil {
				return fmt.Errorf("follow next hops: %w", n.err)
			}
			if s.apply(n) && settle == nil {
				settle = time.After(r.debounce)
			}
			continue
		case <-r.wake:
			r.mu.Lock()
			wanted := r.wanted
			r.mu.Unlock()
			s.want(wanted)
		case <-retry.C:
			if !s.retry() {
				continue
			}
		case <-resync.C:
			s.resync()
		case <-settle:
		}
		settle = nil
		changed, err := s.settle()
		if err != nil {
			return fmt.Errorf("follow next hops: %w", err)
		}
		if changed {
			table := s.table
			r.table.Store(&table)
			notify(r.changed)
		}
	}
}

// notify leaves a token in a channel of capacity one.
func notify(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

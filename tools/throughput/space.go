package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

// The two ends of the wire that frames go round.
const (
	endGenerator = "generator"
	endBalancer  = "balancer"
)

// space is a network namespace with the wire in it. No stack sees what goes round: XDP
// programs are at both ends.
type space struct {
	ns *os.File
	// generator is the index of the generator's end.
	generator, balancer int
}

// newSpace makes a wire with so many queues, one for each CPU: a frame takes the queue of
// the CPU that sends it. The calling goroutine is in the namespace from then on, and locked
// to its thread, which ends with it.
func newSpace(queues int) (*space, error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("a network namespace (needs root): %w", err)
	}
	// Nobody but the generator sends: no interface asks for neighbours or routers.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("turn IPv6 off in a network namespace: %w", err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.NumTxQueues, attributes.NumRxQueues = endGenerator, queues, queues
	veth := &netlink.Veth{LinkAttrs: attributes, PeerName: endBalancer,
		PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("a pair of veth interfaces: %w", err)
	}
	s := &space{}
	for name, index := range map[string]*int{endGenerator: &s.generator, endBalancer: &s.balancer} {
		end, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(end)
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		*index = end.Attrs().Index
	}
	var err error
	s.ns, err = os.Open("/proc/thread-self/ns/net")
	return s, err
}

// on calls f in the namespace, on a CPU, on a thread that ends with the call.
func (s *space) on(cpu int, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			_, err = measure.Pin(cpu)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func (s *space) close() error { return s.ns.Close() }

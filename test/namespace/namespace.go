// Package namespace gives a test network namespaces of its own.
package namespace

import (
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace with a netlink handle into it.
type Namespace struct {
	netns.NsHandle
	*netlink.Handle
}

// New makes a namespace that lives as long as the test. Its loopback interface
// is down. It needs root.
func New(t testing.TB) Namespace {
	t.Helper()
	var ns netns.NsHandle
	err := inThread(func() (err error) {
		ns, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatalf("new network namespace (needs root): %v", err)
	}
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		handle.Close()
		ns.Close()
	})
	return Namespace{ns, handle}
}

// Do calls f in the namespace, on a thread of its own that ends with the call.
func (n Namespace) Do(f func() error) error {
	return inThread(func() error {
		if err := netns.Set(n.NsHandle); err != nil {
			return err
		}
		return f()
	})
}

// inThread calls f on a thread of its own. The thread ends with the call, so
// whatever namespace it is in then is of no matter.
func inThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

package xdp

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The ways in which a program can be attached, as operators see them.
const (
	Native  = "native"
	Generic = "generic"
)

// Attachment is a program on an interface, until the link is closed or, pinned,
// until it is unpinned as well.
type Attachment struct {
	link.Link
	// Mode is Native or Generic.
	Mode string
	// Warning says why it is not the mode that would be better, if somebody
	// should know.
	Warning string
}

// Attach attaches a program to an interface of the calling thread's network
// namespace: in its driver, and where mode leaves the choice and the driver
// cannot, in the kernel's generic receive path. It refuses an interface that has
// a program already. The caller closes the link.
func Attach(program *ebpf.Program, name string, index int, mode model.XDPMode) (Attachment, error) {
	if mode == model.XDPGeneric {
		return attachAs(program, name, index, Generic)
	}
	a, err := attachAs(program, name, index, Native)
	if err == nil || mode == model.XDPNative || !mayBeDriver(err) {
		return a, err
	}
	why := err
	a, err = attachAs(program, name, index, Generic)
	a.Warning = fmt.Sprintf("the driver cannot run XDP natively (%v): generic mode is several times slower", why)
	return a, err
}

// mayBeDriver reports whether generic mode may succeed where native mode failed.
func mayBeDriver(err error) bool {
	return !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EPERM)
}

func attachAs(program *ebpf.Program, name string, index int, mode string) (Attachment, error) {
	flags := link.XDPDriverMode
	if mode == Generic {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: index, Flags: flags})
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return Attachment{}, fmt.Errorf("another XDP program is on it (%w); 'ip link show dev %[2]s' names it, 'ip link set dev %[2]s xdp off' takes it off unless a link of its owner holds it", err, name)
	case err != nil:
		return Attachment{}, Explain(err)
	}
	return Attachment{Link: l, Mode: mode}, nil
}

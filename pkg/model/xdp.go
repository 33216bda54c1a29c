package model

import "fmt"

// XDPMode says where in the kernel an XDP program runs.
type XDPMode uint8

// The modes of attachment.
const (
	// XDPAuto is native, or generic where the driver cannot.
	XDPAuto XDPMode = iota
	// XDPNative runs in the driver, before the kernel allocates anything, and
	// fails where the driver cannot.
	XDPNative
	// XDPGeneric runs in the kernel's receive path, on any interface, slower.
	XDPGeneric
)

// ParseXDPMode accepts "auto", "native" and "generic".
func ParseXDPMode(s string) (XDPMode, error) {
	return parseEnum("XDP mode", s, []XDPMode{XDPAuto, XDPNative, XDPGeneric})
}

func (m XDPMode) String() string {
	switch m {
	case XDPAuto:
		return "auto"
	case XDPNative:
		return "native"
	case XDPGeneric:
		return "generic"
	}
	return fmt.Sprintf("xdp_mode(%d)", uint8(m))
}

package config

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// setter checks a text value and stores it in its place.
type setter func(value string) error

func setAny(dst *string) setter {
	return func(value string) error {
		*dst = value
		return nil
	}
}

func setSeed(dst *[16]byte) setter {
	return func(value string) error {
		raw, err := hex.DecodeString(value)
		if err != nil || len(raw) != len(dst) {
			return fmt.Errorf("want %d hexadecimal digits, such as openssl rand -hex %d prints", 2*len(dst), len(dst))
		}
		seed := [16]byte(raw)
		if seed == ([16]byte{}) {
			return fmt.Errorf("all zeros is no seed; leave the key out to have one made")
		}
		*dst = seed
		return nil
	}
}

// family is an address family by its name.
type family string

const (
	ipv4 family = "IPv4"
	ipv6 family = "IPv6"
)

func (f family) has(a netip.Addr) bool { return a.Is4() && f == ipv4 || a.Is6() && f == ipv6 }

// setSource takes a unicast address of one family, or a prefix of at most so many
// host bits; an empty value stands for none.
func setSource(dst *netip.Prefix, of family, hostBits int) setter {
	return func(value string) error {
		if value == "" {
			*dst = netip.Prefix{}
			return nil
		}
		prefix, err := netip.ParsePrefix(value)
		if addr, single := netip.ParseAddr(value); single == nil {
			if addr.Zone() != "" {
				return fmt.Errorf("%s has a zone; use an address without one", addr)
			}
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		addr := prefix.Addr()
		switch {
		case err != nil || !of.has(addr) || addr.Is4In6():
			return fmt.Errorf("%q is neither an %s address nor a prefix of them", value, of)
		case addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.IsLinkLocalUnicast():
			return fmt.Errorf("%s cannot be the source of packets to other hosts", addr)
		case addr.BitLen()-prefix.Bits() > hostBits:
			return fmt.Errorf("%s leaves %d bits free, at most %d are possible; write a longer prefix, /%d or more", prefix, addr.BitLen()-prefix.Bits(), hostBits, addr.BitLen()-hostBits)
		case prefix != prefix.Masked():
			return fmt.Errorf("%s has bits behind its length; write %s, or %s for the one address", prefix, prefix.Masked(), addr)
		}
		*dst = prefix
		return nil
	}
}

func setPorts(dst *model.PortRange) setter {
	return func(value string) error {
		ports, err := model.ParsePortRange(value)
		if err != nil || ports.Any() || int(ports.Last)-int(ports.First)+1 < MinNATPorts {
			return fmt.Errorf("%q is not a range of ports from 1 to 65535, at least %d of them, such as 1024-65535", value, MinNATPorts)
		}
		*dst = ports
		return nil
	}
}

func setPath(dst *string) setter {
	return func(value string) error {
		if !filepath.IsAbs(value) {
			return fmt.Errorf("%q is not an absolute path", value)
		}
		*dst = filepath.Clean(value)
		return nil
	}
}

// maxSocketPath is what sockaddr_un holds, less the terminating zero.
const maxSocketPath = 107

func setSocket(dst *string) setter {
	set := setPath(dst)
	return func(value string) error {
		if len(value) > maxSocketPath {
			return fmt.Errorf("the path of a socket has at most %d bytes, this one has %d", maxSocketPath, len(value))
		}
		return set(value)
	}
}

func setListen(dst *string) setter {
	return func(value string) error {
		if value == "" {
			*dst = ""
			return nil
		}
		if strings.HasPrefix(value, ":") {
			return fmt.Errorf("%q names no address; write 127.0.0.1%s, or 0.0.0.0%[2]s to listen on every one", value, value)
		}
		addr, err := netip.ParseAddrPort(value)
		if err != nil || addr.Port() == 0 {
			return fmt.Errorf(`%q is not an IP address and a port, such as 127.0.0.1:9464; "" turns metrics off`, value)
		}
		*dst = value
		return nil
	}
}

// setLevel takes slog's levels by their lower-case names only, without offsets.
func setLevel(dst *slog.Level) setter {
	return func(value string) error {
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			if value == strings.ToLower(level.String()) {
				*dst = level
				return nil
			}
		}
		return fmt.Errorf("%q is none of debug, info, warn, error", value)
	}
}

// checkInterface applies the kernel's rules for the name of a device
// (dev_valid_name in net/core/dev.c).
func checkInterface(name string) error {
	const maxLength = 15 // IFNAMSIZ less the terminating zero
	valid := name != "" && len(name) <= maxLength && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r")
	if !valid {
		return fmt.Errorf("%q is not the name of an interface: want 1 to %d bytes without '/', ':' and spaces", name, maxLength)
	}
	return nil
}

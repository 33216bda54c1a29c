package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// setting is a file below /proc/sys/net/ipv4/conf.
type setting struct{ device, key string }

// String is the name that sysctl(8) knows it by.
func (s setting) String() string {
	return fmt.Sprintf("net.ipv4.conf.%s.%s", strings.ReplaceAll(s.device, ".", "/"), s.key)
}

func (s setting) path() string { return filepath.Join("/proc/sys/net/ipv4/conf", s.device, s.key) }

func (s setting) read() (string, error) {
	value, err := os.ReadFile(s.path())
	if err != nil {
		return "", fmt.Errorf("read %s: %w", s, err)
	}
	return strings.TrimSpace(string(value)), nil
}

func (s setting) write(value string) error {
	if err := os.WriteFile(s.path(), []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", s, value, explain(err))
	}
	return nil
}

// quietenARP keeps the host from telling its segments that it has the IPv4 VIPs:
// it answers only for addresses of the interface that is asked (arp_ignore), and
// asks with such a one itself (arp_announce). The kernel goes by the larger of
// "all" and the interface's own value; "all" is for interfaces not named to us,
// the interface's own for when somebody resets "all".
func (h *host) quietenARP() error {
	if !h.hasIPv4() {
		return nil
	}
	for _, device := range append([]string{"all"}, h.Interfaces...) {
		// 2, 3 and 8 are stricter than 1, 3 as far as addresses of host scope go.
		if err := h.set(setting{device, "arp_ignore"}, "1", "2", "3", "8"); err != nil {
			return err
		}
		if err := h.set(setting{device, "arp_announce"}, "2"); err != nil {
			return err
		}
	}
	return h.warnOfFilters()
}

// set changes a setting to want, unless it has that value or one that is as good.
func (h *host) set(s setting, want string, asGood ...string) error {
	before, err := s.read()
	if err != nil {
		return err
	}
	if before == want || slices.Contains(asGood, before) {
		h.Say("%s is %s already: left as it is, at the end too", s, before)
		return nil
	}
	if err := s.write(want); err != nil {
		return err
	}
	h.Say("%s set to %s, was %s", s, want, before)
	h.onUndo(func() error {
		now, err := s.read()
		switch {
		case errors.Is(err, os.ErrNotExist):
			h.Say("%s is gone with its interface", s)
			return nil
		case err != nil:
			return err
		case now != want:
			h.Say("%s is %s now: somebody else changed it, left as it is", s, now)
			return nil
		}
		if err := s.write(before); err != nil {
			return err
		}
		h.Say("%s set back to %s", s, before)
		return nil
	})
	return nil
}

// warnOfFilters tells of interfaces whose reverse-path filter is strict. The
// kernel goes by the larger of "all" and the interface's own value; 1 is strict,
// 2 is loose (RFC 3704).
func (h *host) warnOfFilters() error {
	all, err := setting{"all", "rp_filter"}.read()
	if err != nil {
		return err
	}
	for _, name := range h.Interfaces {
		s := setting{name, "rp_filter"}
		own, err := s.read()
		if err != nil {
			return err
		}
		if max(all, own) == "1" {
			h.Say("warning: %s is strict (1): packets of clients whose way back does not leave by %s are dropped by the kernel; if there are any, 'sysctl -w %s=2'", s, name, s)
		}
	}
	return nil
}

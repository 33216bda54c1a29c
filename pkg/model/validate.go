package model

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

var (
	nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	// hostShape finds an address in brackets and a port.
	hostShape = regexp.MustCompile(`^(?:[A-Za-z0-9._-]{1,253}|\[([0-9A-Fa-f:.]+)\])(?::([0-9]+))?$`)
)

// ValidateName reports whether a name may be given to a VIP, pool or check: 1 to
// 63 letters, digits, dots, underscores and hyphens, the first a letter or digit.
func ValidateName(name string) error {
	if !nameShape.MatchString(name) {
		return fmt.Errorf("%q is not a name: want 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit", name)
	}
	return nil
}

// Validate checks every rule and returns all violations, each a [FieldError], joined.
func (s *State) Validate() error {
	v := &validator{}
	pools := map[string]*Pool{}
	for i := range s.Pools {
		p := &s.Pools[i]
		at := fmt.Sprintf("pool %q", p.Name)
		if pools[p.Name] != nil {
			v.fail(at, "this name is taken by another pool")
		}
		pools[p.Name] = p
		v.pool(at, p)
	}
	v.vips(s.VIPs, pools)
	v.separate(s)
	v.sourceLists(s)
	return errors.Join(v.errs...)
}

type validator struct{ errs []error }

func (v *validator) fail(at, format string, args ...any) {
	v.errs = append(v.errs, &FieldError{Path: at, Reason: fmt.Sprintf(format, args...)})
}

func (v *validator) name(at, name string) {
	if err := ValidateName(name); err != nil {
		v.fail(at+", name", "%v", err)
	}
}

func (v *validator) pool(at string, p *Pool) {
	v.name(at, p.Name)
	if p.OnAllDown < OnAllDownDrop || p.OnAllDown > OnAllDownLastKnown {
		v.fail(at+", on_all_down", "want drop, reset or last-known")
	}
	if p.DownGrace < 0 || p.DownGrace > MaxDownGrace {
		v.fail(at+", down_grace", "%v is out of range 0s to %v", p.DownGrace, MaxDownGrace)
	}
	if p.SlowStart < 0 || p.SlowStart > MaxSlowStart {
		v.fail(at+", slow_start", "%v is out of range 0s to %v", p.SlowStart, MaxSlowStart)
	}
	v.tableSize(at+", table_size", p)
	if len(p.Backends) > MaxBackends {
		v.fail(at, "has %d backends, at most %d are possible", len(p.Backends), MaxBackends)
	}
	v.serverIDs(at, p)
	backends := map[BackendID]bool{}
	for i := range p.Backends {
		b := &p.Backends[i]
		bat := fmt.Sprintf("%s, backend %s", at, b)
		if backends[b.BackendID] {
			v.fail(bat, "is in the pool already")
		}
		backends[b.BackendID] = true
		v.backend(bat, b)
	}
	checks := map[string]bool{}
	for i := range p.Checks {
		c := &p.Checks[i]
		cat := fmt.Sprintf("%s, check %q", at, c.Name)
		if checks[c.Name] {
			v.fail(cat, "this name is taken by another check of the pool")
		}
		checks[c.Name] = true
		v.check(cat, c)
		v.checkPort(cat+", port", c, p)
	}
}

func (v *validator) tableSize(at string, p *Pool) {
	size := p.TableSize
	switch {
	case size < MinTableSize || size > MaxTableSize:
		v.fail(at, "%d is out of range %d to %d", size, MinTableSize, MaxTableSize)
	case !big.NewInt(int64(size)).ProbablyPrime(0):
		v.fail(at, "%d is not a prime; the next one is %d", size, nextPrime(size))
	case int(size) < SlotsPerBackend*len(p.Backends):
		v.fail(at, "%d slots are too few for %d backends; want at least %d", size, len(p.Backends), nextPrime(uint32(SlotsPerBackend*len(p.Backends))))
	}
}

func nextPrime(n uint32) uint32 {
	for !big.NewInt(int64(n)).ProbablyPrime(0) {
		n++
	}
	return n
}

func (v *validator) backend(at string, b *Backend) {
	v.address(at+", address", b.Address)
	if b.Weight > MaxWeight {
		v.fail(at+", weight", "%d is out of range 0 to %d", b.Weight, MaxWeight)
	}
	if b.MaxConnections > MaxMaxConnections {
		v.fail(at+", max_connections", "%d is out of range 1 to %d, or 0 for no limit", b.MaxConnections, MaxMaxConnections)
	}
	if b.State < Enabled || b.State > Disabled {
		v.fail(at+", state", "want enabled, draining or disabled")
	}
	if b.State != Draining && b.Drain != (Drain{}) {
		v.fail(at+", drain", "only a draining backend has one, this is %s", b.State)
	}
}

func (v *validator) check(at string, c *Check) {
	v.name(at, c.Name)
	if c.Type < CheckTCP || c.Type > CheckICMP {
		v.fail(at+", type", "want tcp, http, https, udp or icmp")
		return
	}
	if c.Interval < MinCheckInterval || c.Interval > MaxCheckInterval {
		v.fail(at+", interval", "%v is out of range %v to %v", c.Interval, MinCheckInterval, MaxCheckInterval)
	}
	if c.Timeout <= 0 || c.Timeout > c.Interval {
		v.fail(at+", timeout", "%v must be more than 0 and at most the interval, %v", c.Timeout, c.Interval)
	}
	if c.Rise < 1 || c.Rise > MaxCheckCount {
		v.fail(at+", rise", "%d is out of range 1 to %d", c.Rise, MaxCheckCount)
	}
	if c.Fall < 1 || c.Fall > MaxCheckCount {
		v.fail(at+", fall", "%d is out of range 1 to %d", c.Fall, MaxCheckCount)
	}
	if c.Jitter > 50 {
		v.fail(at+", jitter", "%d%% is out of range 0 to 50", c.Jitter)
	}
	v.checkPayload(at, c)
}

func (v *validator) checkPayload(at string, c *Check) {
	if c.Type.IsHTTP() {
		v.request(at, c)
	} else {
		v.foreign(at+", host", c.Host != "", c, "http and https")
		v.foreign(at+", path", c.Path != "", c, "http and https")
		v.foreign(at+", status", c.Status != 0, c, "http and https")
		v.foreign(at+", body", c.Body != "" && c.Type != CheckUDP, c, "http, https and udp")
	}
	v.foreign(at+", send", c.Send != "" && c.Type != CheckUDP, c, "udp")
}

// foreign refuses a field that belongs to checks of other types.
func (v *validator) foreign(at string, given bool, c *Check, owners string) {
	if given {
		v.fail(at, "only %s checks have one, this is %s", owners, c.Type)
	}
}

// request refuses what cannot be written into the head of a request.
func (v *validator) request(at string, c *Check) {
	switch _, err := url.ParseRequestURI(c.Path); {
	case !strings.HasPrefix(c.Path, "/"):
		v.fail(at+", path", "%q must begin with '/'", c.Path)
	case strings.Contains(c.Path, " "):
		v.fail(at+", path", "%q has a space; write %%20", c.Path)
	case err != nil:
		v.fail(at+", path", "%q cannot be requested; write %% as %%25 and other special bytes as %% and two hexadecimal digits", c.Path)
	}
	if c.Host != "" && !validHost(c.Host) {
		v.fail(at+", host", "%q is not a host; want a name or an address, such as example.com, 10.0.1.10:8080 or [2001:db8::10]", c.Host)
	}
	if c.Status != 0 && (c.Status < 100 || c.Status > 599) {
		v.fail(at+", status", "%d is not an HTTP status; want 100 to 599, or 0 for any of 200 to 399", c.Status)
	}
}

// validHost reports whether host may be the Host header of a request: a name or
// an address, IPv6 in brackets, and perhaps a port (RFC 9110, section 7.2).
func validHost(host string) bool {
	parts := hostShape.FindStringSubmatch(host)
	if parts == nil {
		return false
	}
	if inBrackets := parts[1]; inBrackets != "" {
		if addr, err := netip.ParseAddr(inBrackets); err != nil || !addr.Is6() {
			return false
		}
	}
	if port := parts[2]; port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	return true
}

// checkPort makes sure that a probe has a port to go to.
func (v *validator) checkPort(at string, c *Check, p *Pool) {
	if c.Type == CheckICMP {
		if c.Port != 0 {
			v.fail(at, "icmp checks have no port")
		}
		return
	}
	if c.Port != 0 {
		return
	}
	for _, b := range p.Backends {
		if b.Port == 0 {
			v.fail(at, "is needed: backend %s has no port of its own", b)
			return
		}
	}
}

func (v *validator) address(at string, a netip.Addr) {
	if err := ValidateAddress(a); err != nil {
		v.fail(at, "%v", err)
	}
}

// ValidateAddress refuses what no packet on the wire may carry as the address of
// a VIP or of a backend. The error reads on from the name of the place.
func ValidateAddress(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("is missing")
	case a.Is4In6():
		return fmt.Errorf("%s is IPv4-mapped; write %s", a, a.Unmap())
	case a.Zone() != "":
		return fmt.Errorf("%s has a zone; use an address without one", a)
	case a.IsUnspecified():
		return fmt.Errorf("%s is the unspecified address", a)
	case a.IsMulticast():
		return fmt.Errorf("%s is a multicast address", a)
	case a.IsLoopback():
		return fmt.Errorf("%s is a loopback address", a)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a link-local address", a)
	case a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return fmt.Errorf("%s is a reserved address", a)
	}
	return nil
}

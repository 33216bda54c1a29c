package model

import (
	"fmt"
	"time"
)

// CheckType is the kind of a health check.
type CheckType uint8

// The types of checks.
const (
	// CheckTCP opens a connection.
	CheckTCP CheckType = iota + 1
	// CheckHTTP sends a GET and judges status and body.
	CheckHTTP
	// CheckHTTPS does the same over TLS.
	CheckHTTPS
	// CheckUDP sends a datagram and waits for an answer.
	CheckUDP
	// CheckICMP sends an echo request.
	CheckICMP
)

// ParseCheckType accepts "tcp", "http", "https", "udp" and "icmp".
func ParseCheckType(s string) (CheckType, error) {
	return parseEnum("check type", s, []CheckType{CheckTCP, CheckHTTP, CheckHTTPS, CheckUDP, CheckICMP})
}

func (t CheckType) String() string {
	switch t {
	case CheckTCP:
		return "tcp"
	case CheckHTTP:
		return "http"
	case CheckHTTPS:
		return "https"
	case CheckUDP:
		return "udp"
	case CheckICMP:
		return "icmp"
	}
	return fmt.Sprintf("check(%d)", uint8(t))
}

// IsHTTP reports whether the check speaks HTTP, in the clear or over TLS.
func (t CheckType) IsHTTP() bool { return t == CheckHTTP || t == CheckHTTPS }

// Defaults and bounds of a check.
const (
	DefaultCheckInterval = 2 * time.Second
	DefaultCheckTimeout  = time.Second
	DefaultCheckRise     = 2
	DefaultCheckFall     = 3
	MinCheckInterval     = 50 * time.Millisecond
	MaxCheckInterval     = time.Hour
	MaxCheckCount        = 100
)

// Check is a health check of a pool's backends.
type Check struct {
	// Name is unique within its pool; see [ValidateName].
	Name string
	Type CheckType
	// Port to probe, in host byte order; 0 means the backend's own port.
	// ICMP has none.
	Port uint16
	// Interval between the starts of two probes; Timeout bounds one probe and
	// is at most Interval.
	Interval, Timeout time.Duration
	// Rise is how many probes in a row must pass for down to become up; Fall
	// how many must fail for up to become down. The first probe of all decides
	// alone.
	Rise, Fall uint32
	// Jitter spreads the starts: each interval is lengthened or shortened by
	// up to this many percent, 0 to 50.
	Jitter uint32

	// Host is the Host header and, for https, the TLS server name to ask for
	// and verify. Empty: the backend's address, unverified.
	Host string
	// Path to GET, "/" by default (http, https).
	Path string
	// Status is the expected status code; 0 accepts 200 to 399 (http, https).
	Status uint32
	// Body must occur in the first 64 KiB of the answer (http, https); in the
	// datagram (udp). Empty accepts anything.
	Body string
	// Send is the payload of the probe (udp).
	Send string
}

// WithDefaults fills in what the operator left out.
func (c Check) WithDefaults() Check {
	if c.Name == "" {
		c.Name = c.Type.String()
	}
	if c.Interval == 0 {
		c.Interval = DefaultCheckInterval
	}
	if c.Timeout == 0 {
		c.Timeout = min(DefaultCheckTimeout, c.Interval)
	}
	if c.Rise == 0 {
		c.Rise = DefaultCheckRise
	}
	if c.Fall == 0 {
		c.Fall = DefaultCheckFall
	}
	if c.Path == "" && c.Type.IsHTTP() {
		c.Path = "/"
	}
	return c
}

package connections_test

import (
	"os"
	"strings"
)

// path is how packets get to a backend: a forwarding mode in a family, with a
// transport inside.
type path struct {
	mode      string
	ipv6      bool
	transport transport
}

// translates is whether backends are ordinary servers, whose answers the balancer changes back.
func (p path) translates() bool { return p.mode == "nat" || p.mode == "fullnat" }

// vip are the options of VIP "web" or "control". Of fullnat, which remembers every
// connection in any case, the control is nat.
func (p path) vip(name string) []string {
	mode, options := p.mode, p.transport.vip(name)
	if p.mode == "fullnat" {
		if name == "control" {
			mode = "nat"
		} else {
			options = append(options, "--tracking", "always") // the last one counts
		}
	}
	return append([]string{"--mode", mode}, options...)
}

// suffix is for the names of tests: empty for TCP over IPv4 in mode dsr-l2.
func (p path) suffix() string {
	if p == (path{mode: "dsr-l2"}) {
		return ""
	}
	parts := []string{"", p.mode}
	if p.ipv6 {
		parts = append(parts, "v6")
	}
	if p.transport != tcp {
		parts = append(parts, p.transport.String())
	}
	return strings.Join(parts, "-")
}

// String has every part but the usual family.
func (p path) String() string {
	if p.ipv6 {
		return p.mode + "-v6-" + p.transport.String()
	}
	return p.mode + "-" + p.transport.String()
}

// transport is what connections are made of, and what their VIPs do for them.
type transport uint8

const (
	// tcp has VIP "web" remember the flows of slots in flux; "control" does not.
	tcp transport = iota
	// quic has servers whose connection IDs say nothing. The VIPs are as with tcp.
	quic
	// roaming has servers whose connection IDs name them, and clients that change
	// their ports all the time. VIP "web" reads connection IDs; "control" does
	// not, and even that it remembers every flow is no help to it.
	roaming
)

func (t transport) String() string { return []string{"tcp", "quic", "quic-roaming"}[t] }

// vip are the options of a VIP.
func (t transport) vip(name string) []string {
	switch control := name == "control"; {
	case t == roaming && control:
		return []string{"--protocol", "udp", "--tracking", "always"}
	case t == roaming:
		return []string{"--protocol", "udp", "--quic", "--tracking", "flux"}
	case t == quic && control:
		return []string{"--protocol", "udp", "--quic", "--tracking", "none"}
	case t == quic:
		return []string{"--protocol", "udp", "--quic", "--tracking", "flux"}
	case control:
		return []string{"--tracking", "none"}
	}
	return []string{"--tracking", "flux"}
}

// form is how much of everything a run has.
type form struct {
	connections, control int // opened before a scenario disturbs anything
	repetitions          int // of flaps, restarts, crashes
	churn                int // random steps
	flood                int // openers
	settled              int // openers on settled slots
}

// full is whether the environment asks for the long form.
func full() bool { return os.Getenv("STEELYARD_CONNECTIONS") == "full" }

// size is the form that the environment asks for. QUIC has fewer connections: it
// ends in this process, which spends many times on a record what the kernel does.
func (t transport) size() form {
	short := form{connections: 400, control: 200, repetitions: 4, churn: 40, flood: 100_000, settled: 100_000}
	long := form{connections: 2000, control: 200, repetitions: 10, churn: 150, flood: 300_000, settled: 1_000_000}
	if t != tcp {
		short.connections, long.connections = 150, 500
	}
	if full() {
		return long
	}
	return short
}

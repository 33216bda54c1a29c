package model

import "fmt"

// AffinityScope says what of a packet chooses its backend.
type AffinityScope uint8

// The scopes of affinity.
const (
	// AffinityFlow spreads by the 5-tuple: every flow for itself. The default.
	AffinityFlow AffinityScope = iota + 1
	// AffinitySource keeps all flows of a source prefix to a VIP together, on all
	// its addresses and ports.
	AffinitySource
	// AffinityPool keeps all flows of a source prefix together, to all VIPs of
	// this affinity that share the pool.
	AffinityPool
)

// ParseAffinityScope accepts "flow", "source" and "pool".
func ParseAffinityScope(s string) (AffinityScope, error) {
	return parseEnum("affinity", s, []AffinityScope{AffinityFlow, AffinitySource, AffinityPool})
}

func (s AffinityScope) String() string {
	switch s {
	case AffinityFlow:
		return "flow"
	case AffinitySource:
		return "source"
	case AffinityPool:
		return "pool"
	}
	return fmt.Sprintf("affinity(%d)", uint8(s))
}

// Affinity says which flows go to the same backend.
type Affinity struct {
	Scope AffinityScope
	// IPv4Prefix and IPv6Prefix are how many leading bits of the source address
	// count, 1 to 32 and 1 to 128. With [AffinityFlow] they mean nothing.
	IPv4Prefix, IPv6Prefix uint8
}

// DefaultAffinity is that of a VIP that names none.
func DefaultAffinity() Affinity {
	return Affinity{Scope: AffinityFlow, IPv4Prefix: 32, IPv6Prefix: 128}
}

// FragmentPolicy says what becomes of a fragment that arrives before the first one
// of its packet, which alone tells the ports.
type FragmentPolicy uint8

// The policies.
const (
	// FragmentsFollow drops it: later fragments follow their first one. The default.
	FragmentsFollow FragmentPolicy = iota + 1
	// FragmentsHash sends it where source, destination and protocol say, and
	// the fragments that come after it to the same place.
	FragmentsHash
)

// ParseFragmentPolicy accepts "follow" and "hash".
func ParseFragmentPolicy(s string) (FragmentPolicy, error) {
	return parseEnum("fragments", s, []FragmentPolicy{FragmentsFollow, FragmentsHash})
}

func (p FragmentPolicy) String() string {
	switch p {
	case FragmentsFollow:
		return "follow"
	case FragmentsHash:
		return "hash"
	}
	return fmt.Sprintf("fragments(%d)", uint8(p))
}

package subject

import "github.com/cilium/ebpf"

// Subject is a load balancer under test.
type Subject interface {
	Program() *ebpf.Program
	// Tally says what it has done so far.
	Tally() (Tally, error)
	Close() error
}

// Tally counts what became of packets.
type Tally struct {
	// Expected fared as the case says, Others did not.
	Expected, Others uint64
	// Begun are flows that were not known before.
	Begun uint64
	// Where says what became of Others.
	Where []string
}

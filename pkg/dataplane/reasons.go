package dataplane

import (
	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// reasonNames are the names of every way out of the program, by index.
func reasonNames(spec *ebpf.CollectionSpec) ([]string, error) {
	return xdp.ReasonNames(spec, "reason", int(lbReasonREASONS))
}

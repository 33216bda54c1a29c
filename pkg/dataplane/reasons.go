package dataplane

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// reasonNames reads the names of every way out of the program from its BTF, in
// the order of their indices: "drop_truncated" and so on.
func reasonNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var reasons *btf.Enum
	if err := spec.Types.TypeByName("reason", &reasons); err != nil {
		return nil, fmt.Errorf("reasons: %w", err)
	}
	names := make([]string, lbReasonREASONS)
	for _, v := range reasons.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = strings.ToLower(v.Name)
		}
	}
	return names, nil
}

package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// minKernel is the lowest release of Linux that tests run on.
const minKernel = "6.1"

// Explain adds to what the kernel answers what the operator can do about it.
func Explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier) && len(verifier.Log) > 0:
		return fmt.Errorf("%w; this kernel's verifier does not take the program: Linux %s or later is needed", err, minKernel)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_RESOURCE", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w; this kernel lacks a feature that the program needs: Linux "+minKernel+" or later, with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and BTF", err)
	}
	return err
}

// ReasonNames reads from a program's BTF the names of its ways out, the first
// count of an enumeration, in the order of their values: "drop_truncated" and so on.
func ReasonNames(spec *ebpf.CollectionSpec, enumeration string, count int) ([]string, error) {
	var reasons *btf.Enum
	if err := spec.Types.TypeByName(enumeration, &reasons); err != nil {
		return nil, fmt.Errorf("reasons: %w", err)
	}
	names := make([]string, count)
	for _, v := range reasons.Values {
		if v.Value < uint64(count) {
			names[v.Value] = strings.ToLower(v.Name)
		}
	}
	return names, nil
}

// Words are an address, IPv4 mapped into IPv6, as programs hold it: its bytes on
// the wire read as little-endian words.
func Words(a netip.Addr) [2]uint64 {
	b := a.As16()
	return [2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

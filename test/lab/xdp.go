package lab

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// xdpPass is the verdict XDP_PASS.
const xdpPass = 2

// ReceiveXDP makes a veth device take the frames that its peer transmits by
// XDP, with a program that passes everything. GRO on the device would be enough
// for redirected frames, but not for XDP_TX: the kernel queues those and then
// wakes only a receiver that has a program (veth_xdp_flush), so that they lie
// there until an ordinary frame comes by. It fails if the device has a program.
func (h *Host) ReceiveXDP(device string) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lab_pass", Type: ebpf.XDP, License: "Dual BSD/GPL",
		Flags:        unix.BPF_F_XDP_HAS_FRAGS, // links of any MTU
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a program that passes everything: %w", err)
	}
	defer program.Close()
	// Attached through netlink, the program stays with the device.
	return h.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("on %s: device %s: %w", h.Name, device, err)
		}
		if err := netlink.LinkSetXdpFdWithFlags(link, program.FD(), nl.XDP_FLAGS_DRV_MODE); err != nil {
			return fmt.Errorf("on %s: attach a program to %s: %w", h.Name, device, err)
		}
		return nil
	})
}

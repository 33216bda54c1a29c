package lab_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestXDP forwards with the smallest program that balances (to one backend, by
// MAC) through the very path that the product uses: XDP_TX on one interface,
// redirect to the other on two. The backend answers the client directly.
func TestXDP(t *testing.T) {
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d interfaces", interfaces), func(t *testing.T) {
			l := lab.Start(t, lab.Options{Interfaces: interfaces, Backends: 1})
			backend := l.Backends[0]
			if _, err := backend.Nginx(t.Context(), lab.Site{BigBytes: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			vip4, vip6 := lab.VIP(10)
			if err := backend.PlainDSR(vip4, vip6); err != nil {
				t.Fatal(err)
			}
			forward(t, l, vip4, vip6)

			ctx := deadline(t)
			for _, vip := range []netip.Addr{vip4, vip6} {
				if a := l.Client.Fetch(ctx, url(vip, "/"), 50, 4); a.Bodies[backend.Name] != 50 || a.Failed() != 0 {
					t.Errorf("%s: %+v", vip, a)
				}
				size, err := l.Client.Run("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{size_download}", url(vip, "/big"))
				if err != nil || size != "1048576" {
					t.Errorf("%s: /big has %s bytes: %v", vip, size, err)
				}
			}

			// Without the program at the peer, the frames that XDP transmits
			// are lost: what the lab does about it is needed.
			if _, err := l.Switch.Run("ip", "link", "set", "balancer", "xdp", "off"); err != nil {
				t.Fatal(err)
			}
			short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			if conn, err := l.Client.Dial(short, "tcp", netip.AddrPortFrom(vip4, 80).String(), netip.Addr{}); err == nil {
				t.Errorf("connected without a program at the peer: %v", conn.Close())
			}
		})
	}
}

// forward attaches the program to the balancer until the test ends.
func forward(t *testing.T, l *lab.Lab, vip4, vip6 netip.Addr) {
	t.Helper()
	var ingress, egress *net.Interface
	var backend net.HardwareAddr
	interfaces := func(h *lab.Host, find func() error) {
		t.Helper()
		if err := h.Do(find); err != nil {
			t.Fatal(err)
		}
	}
	interfaces(l.Balancer, func() (err error) {
		if ingress, err = net.InterfaceByName("eth0"); err != nil || l.Interfaces == 1 {
			return err
		}
		egress, err = net.InterfaceByName("eth1")
		return err
	})
	interfaces(l.Backends[0], func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err == nil {
			backend = eth0.HardwareAddr
		}
		return err
	})
	source, verdict := ingress.HardwareAddr, asm.Instructions{asm.Mov.Imm(asm.R0, 3)} // XDP_TX
	if egress != nil {
		source = egress.HardwareAddr
		verdict = asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(egress.Index)),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirect.Call(),
		}
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: forwarder(vip4, vip6, source, backend, verdict),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	var attached link.Link
	err = l.Balancer.Do(func() (err error) {
		attached, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: ingress.Index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := attached.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// forwarder writes both MACs of packets to the VIPs and ends with the verdict;
// everything else passes.
func forwarder(vip4, vip6 netip.Addr, source, destination net.HardwareAddr, verdict asm.Instructions) asm.Instructions {
	const etherType, dst4, dst6, end = 12, 14 + 16, 14 + 24, 14 + 40
	out := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, end),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R5, asm.R2, etherType, asm.Half),
		asm.HostTo(asm.BE, asm.R5, asm.Half),
		asm.JEq.Imm(asm.R5, 0x0800, "ipv4"),
		asm.JEq.Imm(asm.R5, 0x86dd, "ipv6"),
		asm.Ja.Label("pass"),
	}
	match := func(label string, offset int16, addr []byte) {
		for i := 0; i < len(addr); i += 4 {
			load := asm.LoadMem(asm.R5, asm.R2, offset+int16(i), asm.Word)
			if i == 0 {
				load = load.WithSymbol(label)
			}
			out = append(out, load, asm.HostTo(asm.BE, asm.R5, asm.Word),
				asm.LoadImm(asm.R4, int64(binary.BigEndian.Uint32(addr[i:])), asm.DWord),
				asm.JNE.Reg(asm.R5, asm.R4, "pass"))
		}
		out = append(out, asm.Ja.Label("rewrite"))
	}
	match("ipv4", dst4, vip4.AsSlice())
	match("ipv6", dst6, vip6.AsSlice())
	for i, b := range append(append([]byte{}, destination...), source...) {
		store := asm.StoreImm(asm.R2, int16(i), int64(b), asm.Byte)
		if i == 0 {
			store = store.WithSymbol("rewrite")
		}
		out = append(out, store)
	}
	out = append(append(out, verdict...), asm.Return())
	return append(out, asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"), asm.Return()) // XDP_PASS
}

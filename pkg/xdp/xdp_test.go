package xdp

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/test/namespace"
)

// passing is a program that passes everything.
func passing(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestAttach tries every mode on an interface whose driver has XDP, on one whose
// driver has not, and on one that is taken.
func TestAttach(t *testing.T) {
	ns, program := namespace.New(t), passing(t)
	if err := ns.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "able"}, PeerName: "taken"}); err != nil {
		t.Fatal(err)
	}
	attach := func(name string, mode model.XDPMode) (a Attachment, err error) {
		t.Helper()
		on, err := ns.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		err = ns.Do(func() (err error) {
			a, err = Attach(program, name, on.Attrs().Index, mode)
			return err
		})
		return a, err
	}
	taken, err := attach("taken", model.XDPGeneric)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, row := range []struct {
		name    string
		mode    model.XDPMode
		want    string // empty: refused
		problem string // in the warning or the error
	}{
		{"able", model.XDPAuto, Native, ""},
		{"able", model.XDPNative, Native, ""},
		{"able", model.XDPGeneric, Generic, ""},
		{"lo", model.XDPAuto, Generic, "the driver cannot run XDP natively"},
		{"lo", model.XDPGeneric, Generic, ""},
		{"lo", model.XDPNative, "", "not supported"},
		{"taken", model.XDPAuto, "", "another XDP program is on it"},
		{"taken", model.XDPGeneric, "", "'ip link set dev taken xdp off'"},
	} {
		a, err := attach(row.name, row.mode)
		problem := a.Warning
		if err != nil {
			problem = err.Error()
		}
		if a.Mode != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s, mode %d: got %q, %v; want %q", row.name, row.mode, a.Mode, err, row.want)
		}
		if !strings.Contains(problem, row.problem) || row.problem == "" && problem != "" {
			t.Errorf("%s, mode %d: %q does not say %q", row.name, row.mode, problem, row.problem)
		}
		if err == nil {
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	for err, want := range map[error]string{
		os.ErrPermission:     "CAP_BPF",
		ebpf.ErrNotSupported: "Linux 6.1",
		os.ErrNotExist:       "",
	} {
		got := Explain(err)
		if !errors.Is(got, err) || !strings.Contains(got.Error(), want) || want == "" && got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestWords(t *testing.T) {
	for addr, want := range map[string][2]uint64{
		"192.0.2.1":   {0, 0x010200c0ffff0000},
		"2001:db8::1": {0x00000000b80d0120, 0x0100000000000000},
	} {
		if got := Words(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %#x, want %#x", addr, got, want)
		}
	}
}

package dataplane

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// attach attaches in the namespace.
func (s space) attach(p *Plane, mode model.XDPMode, interfaces ...string) error {
	return s.do(func() error { return p.Attach(mode, interfaces...) })
}

// xdp tells whether a program is on an interface, and how: "", "native" or "generic".
func (s space) xdp(t *testing.T, name string) string {
	t.Helper()
	l, err := s.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	x := l.Attrs().Xdp
	switch {
	case x == nil || !x.Attached:
		return ""
	case x.AttachMode == 2: // XDP_ATTACHED_SKB
		return "generic"
	}
	return "native"
}

func (s space) wantXDP(t *testing.T, want map[string]string) {
	t.Helper()
	for name, how := range want {
		if got := s.xdp(t, name); got != how {
			t.Errorf("%s has %q XDP, want %q", name, got, how)
		}
	}
}

func TestAttachNative(t *testing.T) {
	for name, mode := range map[string]model.XDPMode{"auto": model.XDPAuto, "native": model.XDPNative} {
		t.Run(name, func(t *testing.T) {
			s, p := newSpace(t), fresh(t, smallLimits())
			s.veth(t, "a", "a2")
			s.veth(t, "b", "b2")
			if err := s.attach(p, mode, "a", "b"); err != nil {
				t.Fatal(err)
			}
			s.wantXDP(t, map[string]string{"a": "native", "b": "native", "a2": "", "b2": ""})
			want := []model.InterfaceStatus{{Name: "a", Mode: "native"}, {Name: "b", Mode: "native"}}
			for i, got := range p.Interfaces() {
				if got != want[i] {
					t.Errorf("status %+v, want %+v", got, want[i])
				}
			}
			if err := p.Detach(); err != nil {
				t.Fatal(err)
			}
			s.wantXDP(t, map[string]string{"a": "", "b": ""})
			if n := len(p.Interfaces()); n != 0 {
				t.Errorf("%d interfaces after Detach", n)
			}
			if err := s.attach(p, mode, "a"); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

func TestAttachGeneric(t *testing.T) {
	s, p := newSpace(t), fresh(t, smallLimits())
	s.veth(t, "a", "a2")
	if err := s.attach(p, model.XDPGeneric, "a"); err != nil {
		t.Fatal(err)
	}
	s.wantXDP(t, map[string]string{"a": "generic"})
	if got := p.Interfaces()[0]; got.Mode != "generic" || got.Warning != "" {
		t.Errorf("asked for generic mode, got %+v", got)
	}
}

// TestAttachFallsBack uses the loopback interface, whose driver knows no XDP.
func TestAttachFallsBack(t *testing.T) {
	s, p := newSpace(t), fresh(t, smallLimits())
	if err := s.attach(p, model.XDPNative, "lo"); err == nil {
		t.Fatal("native mode on an interface without: attached")
	}
	s.wantXDP(t, map[string]string{"lo": ""})
	if err := s.attach(p, model.XDPAuto, "lo"); err != nil {
		t.Fatal(err)
	}
	s.wantXDP(t, map[string]string{"lo": "generic"})
	if got := p.Interfaces()[0]; got.Mode != "generic" || !strings.Contains(got.Warning, "generic mode is several times slower") {
		t.Errorf("no warning: %+v", got)
	}
}

// otherProgram is an XDP program of somebody else.
func otherProgram(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.XDP,
		License:      "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestAttachRefusesOccupied: another program, held by a link or not, in whatever
// mode, is left alone, and so are the interfaces named beside it.
func TestAttachRefusesOccupied(t *testing.T) {
	for name, occupy := range map[string]func(*netlink.Veth, *ebpf.Program) (func() error, error){
		"by a link": func(v *netlink.Veth, other *ebpf.Program) (func() error, error) {
			l, err := link.AttachXDP(link.XDPOptions{Program: other, Interface: v.Index, Flags: link.XDPDriverMode})
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		},
		"by a link in generic mode": func(v *netlink.Veth, other *ebpf.Program) (func() error, error) {
			l, err := link.AttachXDP(link.XDPOptions{Program: other, Interface: v.Index, Flags: link.XDPGenericMode})
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		},
		"without a link": func(v *netlink.Veth, other *ebpf.Program) (func() error, error) {
			return func() error { return nil }, netlink.LinkSetXdpFd(v, other.FD())
		},
	} {
		for modeName, mode := range map[string]model.XDPMode{"auto": model.XDPAuto, "native": model.XDPNative, "generic": model.XDPGeneric} {
			t.Run(name+"/"+modeName, func(t *testing.T) {
				s, p := newSpace(t), fresh(t, smallLimits())
				s.veth(t, "free", "free2")
				taken := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "taken", Index: s.veth(t, "taken", "taken2")}}
				s.veth(t, "later", "later2")
				var release func() error
				other := otherProgram(t)
				err := s.do(func() (err error) {
					release, err = occupy(taken, other)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				before := s.xdp(t, "taken")
				err = s.attach(p, mode, "free", "taken", "later")
				if err == nil {
					t.Fatal("attached")
				}
				if !strings.Contains(err.Error(), "attach to taken: another XDP program is on it") {
					t.Errorf("the error does not say why: %v", err)
				}
				s.wantXDP(t, map[string]string{"free": "", "taken": before, "later": ""})
				if n := len(p.Interfaces()); n != 0 {
					t.Errorf("%d interfaces are said to be attached", n)
				}
				if err := release(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestAttachRefusesItself(t *testing.T) {
	s, p, second := newSpace(t), fresh(t, smallLimits()), fresh(t, smallLimits())
	s.veth(t, "a", "a2")
	if err := s.attach(p, model.XDPAuto, "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.attach(second, model.XDPAuto, "a"); err == nil {
		t.Error("two Planes are on one interface")
	}
	s.wantXDP(t, map[string]string{"a": "native"})
	if n := len(p.Interfaces()); n != 1 {
		t.Errorf("%d interfaces, want 1", n)
	}
}

func TestAttachNoSuchInterface(t *testing.T) {
	s, p := newSpace(t), fresh(t, smallLimits())
	s.veth(t, "a", "a2")
	err := s.attach(p, model.XDPAuto, "a", "missing0")
	if err == nil || !strings.Contains(err.Error(), "attach to missing0: no such interface") {
		t.Errorf("got %v", err)
	}
	s.wantXDP(t, map[string]string{"a": ""})
}

// TestAttachKeepsWhatIsThere: a failing Attach takes back its own interfaces only.
func TestAttachKeepsWhatIsThere(t *testing.T) {
	s, p := newSpace(t), fresh(t, smallLimits())
	s.veth(t, "a", "a2")
	s.veth(t, "b", "b2")
	if err := s.attach(p, model.XDPAuto, "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.attach(p, model.XDPAuto, "b", "missing0"); err == nil {
		t.Fatal("attached")
	}
	s.wantXDP(t, map[string]string{"a": "native", "b": ""})
}

func TestCloseDetaches(t *testing.T) {
	s := newSpace(t)
	s.veth(t, "a", "a2")
	p, err := Load(smallLimits(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.attach(p, model.XDPAuto, "a"); err != nil {
		t.Fatal(errors.Join(err, p.Close()))
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	s.wantXDP(t, map[string]string{"a": ""})
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNoDescriptorLeaks counts what is open before and after whole lives of a
// Plane, those that fail to attach included.
func TestNoDescriptorLeaks(t *testing.T) {
	s := newSpace(t)
	s.veth(t, "a", "a2")
	life := func() {
		p, err := Load(smallLimits(), testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(stateOf(services(loopback))); err != nil {
			t.Fatal(err)
		}
		if err := s.attach(p, model.XDPAuto, "a", "missing0"); err == nil {
			t.Fatal("attached to an interface that is not there")
		}
		if err := s.attach(p, model.XDPAuto, "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Counters(); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	life() // What libraries open once is open now.
	before := descriptors(t)
	for range 5 {
		life()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
	// The control: one that is open is seen.
	p := fresh(t, smallLimits())
	if now := descriptors(t); now <= before {
		t.Errorf("%d descriptors with a Plane, %d without", now, before)
	}
	_ = p
}

// TestLoadFails: limits that no map can have are an error, and leave nothing open.
func TestLoadFails(t *testing.T) {
	fresh(t, smallLimits())
	before := descriptors(t)
	for name, limits := range map[string]Limits{
		"no VIPs":     {VIPs: 0, Pools: 1, Backends: 1, Slots: 1},
		"no pools":    {VIPs: 1, Pools: 0, Backends: 1, Slots: 1},
		"no slots":    {VIPs: 1, Pools: 1, Backends: 1, Slots: 0},
		"all at once": {},
	} {
		if p, err := Load(limits, testOptions()); err == nil {
			t.Errorf("%s: loaded", name)
			p.Close()
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

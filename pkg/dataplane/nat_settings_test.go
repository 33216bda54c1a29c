package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// natSettings are the labs of the packet table of VIPs that translate.
func natSettings() []natSetting {
	plain := tableOptions()
	silent, four, six, few := plain, plain, plain, plain
	silent.ICMPRate = 0
	four.NATSourceIPv6, six.NATSourceIPv4 = netip.Prefix{}, netip.Prefix{}
	few.NATSourceIPv4, few.NATSourceIPv6 = netip.MustParsePrefix("10.9.0.4/32"), netip.MustParsePrefix("2001:db8:9::8/128")
	few.NATPorts = model.PortRange{First: 20000, Last: 20063}
	topics := func(all ...func(*natTable, family) []row) []func(*natTable, family) []row { return all }
	return []natSetting{
		{"", plain, nil, topics(natFlowRows, natFormRows, natErrorRows, natTroubleRows, natFragmentRows, natConnectionRows)},
		{"without answers/", silent, nil, topics(silentRows)},
		{"without ipv6 sources/", four, nil, topics(natSourceRows)},
		{"without ipv4 sources/", six, nil, topics(natSourceRows)},
		{"few ports/", few, nil, topics(exhaustedRows)},
		{"not forwarding/", plain, (*natTable).forwardNothing, topics(notForwardingRows)},
		{"by the kernel/", plain, (*natTable).sideWay, topics(passedRows)},
	}
}

// tableOptions have connections come from ports that no protocol is known by, for
// gopacket would look for it there.
func tableOptions() Options {
	o := natOptions()
	o.NATPorts = model.PortRange{First: 32768, Last: 60999}
	return o
}

// silentRows are what is not answered where there are no answers.
func silentRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.talk(s, protocol)
			forth, back := c.ask(flagACK, text(3)), c.answer(flagACK, text(3))
			forth.ttl, back.ttl = 1, 1
			rows = append(rows, c.counted("ttl forth", "drop_ttl_exceeded", forth), c.unnoticed("ttl back", "drop_ttl_exceeded", back))
			rows = append(rows, c.counted("too big", "drop_too_big", c.ask(flagACK, text(1600))))
			if s.mode == model.ModeNAT {
				rows = append(rows, c.unnoticed("too big back", "drop_too_big", c.answer(flagACK, text(1600))))
			}
		}
		if s.mode != model.ModeFullNAT {
			continue
		}
		for name, flags := range segmentFlags() {
			if flags&(flagSYN|flagACK) != flagSYN {
				c := t.newTalk(s, model.TCP)
				rows = append(rows, c.counted("unknown "+name, "drop_no_connection", c.ask(flags, text(1))))
			}
		}
	}
	return rows
}

// natSourceRows are for backends of a family that has an address to come from, and of one
// that has none.
func natSourceRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			if c := t.newTalk(s, protocol); s.mode == model.ModeNAT || t.sources.serves(s.backend.Address) {
				rows = append(rows, t.first("source", c, c.ask(flagSYN, text(1))))
			} else {
				rows = append(rows, c.counted("no source", "drop_unresolved", c.ask(flagSYN, text(1))))
			}
		}
	}
	return rows
}

// exhaust begins connections until there is no port for one more.
func (t *natTable) exhaust(s natServed, protocol model.Protocol) error {
	for range 1000 {
		c := t.newTalk(s, protocol)
		verdict, out, err := t.run(ebpf.RunOptions{Data: c.ask(flagSYN, nil).bytes()})
		if err != nil || verdict == xdpDrop {
			return err
		}
		c.source = t.sourceIn(out)
		// What is not open in both directions would give way.
		for _, p := range []packet{c.answer(flagSYN|flagACK, nil), c.ask(flagACK, nil)} {
			if _, _, err := t.run(ebpf.RunOptions{Data: p.bytes()}); err != nil {
				return err
			}
		}
	}
	return errors.New("there is always one more port")
}

// exhaustedRows are connections for which no port is free, and others.
func exhaustedRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "")[1:] {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c, known := t.newTalk(s, protocol), t.newTalk(s, protocol)
			_, out := t.send(&known, known.ask(flagSYN, nil))
			begun := sourceOf(out, s.backend.Address.Is6())
			if known.source = begun; !t.sources.Ports.Contains(begun.Port()) {
				continue // all ports are in use since another service's rows were made
			}
			t.through(t, known.answer(flagSYN|flagACK, nil).bytes())
			t.through(t, known.ask(flagACK, nil).bytes())
			r := c.counted("one more", "drop_no_nat_port", c.ask(flagSYN, text(2)))
			r.arrange = func() error { return t.exhaust(s, protocol) }
			rows = append(rows, r, known.forth("goes on", known.ask(flagACK, text(2))), t.back("is answered", known, known.answer(flagACK, text(2))))
			again := known.forth("syn again", known.ask(flagSYN, text(2)))
			rows = append(rows, again)
		}
	}
	return rows
}

// forwardNothing makes the kernel a host that does not forward.
func (t *natTable) forwardNothing() {
	if err := t.do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/all/forwarding", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0))
	}); err != nil {
		t.Fatal(err)
	}
}

// notForwardingRows: what the kernel's routes do not lead to a client is not ours.
func notForwardingRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "") {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.talk(s, protocol)
			rows = append(rows, c.forth("forth", c.ask(flagACK, text(9))))
			report := t.reportToClient(c, c.backendFamily().anyError(), text(9))
			if s.mode == model.ModeFullNAT {
				rows = append(rows, t.back("back", c, c.answer(flagACK, text(9))), report.row("error", 20))
				continue
			}
			line := report.row("error", 20)
			line.reason, line.out = "pass_not_vip", nil
			rows = append(rows, line, c.unnoticed("back", "pass_not_vip", c.answer(flagACK, text(9))))
		}
	}
	return rows
}

// aside is a client behind an interface that the program does not send out of, unknown
// one that no next hop is known of.
func (f family) aside() netip.Addr {
	if f.ipv6 {
		return netip.MustParseAddr("2001:db8:a51d::7")
	}
	return netip.MustParseAddr("198.18.0.7")
}
func (f family) unknown() netip.Addr { return f.client.Next() }

// sideWay adds an interface that is none of the program's, with a client behind it.
func (t *natTable) sideWay() {
	link := t.veth(t, "aside", "asidepeer")
	for _, f := range families() {
		to := &net.IPNet{IP: f.aside().AsSlice(), Mask: net.CIDRMask(f.aside().BitLen(), f.aside().BitLen())}
		err := t.RouteAdd(&netlink.Route{LinkIndex: link, Dst: to})
		if err == nil {
			err = t.NeighAdd(&netlink.Neigh{LinkIndex: link, IP: f.aside().AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: slices.Clone(routerMAC())})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// passedRows are answers of nat VIPs' that the kernel has to send.
func passedRows(t *natTable, f family) []row {
	var rows []row
	s := t.at(f, "nat", "")
	for name, client := range map[string]netip.Addr{"another interface": f.aside(), "next hop unknown": f.unknown()} {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := t.talk(s, protocol)
			passed := func(in packet) packet {
				out := t.answered(c, in)
				out.to, out.from, out.tags, out.ttl, out.destination = in.to, in.from, in.tags, in.ttl, in.destination
				return out
			}
			add := func(what string, in packet) {
				rows = append(rows, row{name: c.row(name + what), in: in.bytes(), out: passed(in).bytes(), reason: "pass_reply"})
			}
			in := c.answer(flagACK, text(101))
			in.destination = client
			add("", in)
			in.ttl = 1
			add(", ttl 1", in)
			in.ttl, in.tags = 64, []tag{{etherVLAN, 5}}
			add(", tagged", in)
			in.tags = nil
			parts, becomes := split(in, 77, nil, 64, 96), split(passed(in), 77, nil, 64, 96)
			for i := range parts {
				r := row{name: c.row(fmt.Sprintf("%s, fragment %d", name, i)), in: parts[i].bytes(), out: becomes[i].bytes(), reason: "pass_reply"}
				if i > 0 {
					r.before = [][]byte{parts[0].bytes()}
				}
				rows = append(rows, r)
			}
			report := t.reportToClient(c, f.anyError(), text(30))
			report.about.source, report.quoted.source = client, client
			report.in.destination, report.out.destination = client, client
			report.out.to, report.out.from, report.out.ttl = report.in.to, report.in.from, report.in.ttl
			line := report.row(name, 31)
			line.reason = "pass_reply"
			rows = append(rows, line)
		}
	}
	return rows
}

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func newStatus(a *app) *cobra.Command {
	cmd := verb("status", "Show everything on one screen", 0, 0, func(cmd *cobra.Command, _ []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(o.viewStatus(), func(w io.Writer) { a.printStatus(w, o) })
	})
	cmd.Long = `Show the daemon and its interfaces, every VIP, every backend with its health and
its share of the traffic, and the packets that were dropped, by reason.`
	return cmd
}

func (o *observed) viewStatus() statusView {
	s := o.status
	view := statusView{
		Version: s.Version, Started: s.Started.UTC(), Revision: s.Revision, AppliedRevision: s.Applied, Error: s.Error,
		Interfaces: views(s.Interfaces, func(i model.InterfaceStatus) interfaceView { return interfaceView(i) }),
		VIPs:       views(s.VIPs, viewVIP),
		Pools:      views(s.Pools, o.view),
		Reasons:    map[string]uint64{},
		Maps:       views(s.Maps, func(m model.MapUse) mapView { return mapView(m) }),
		FlowTable: flowTableView{
			Live: s.Flows.Live, Capacity: s.Flows.Capacity, SlotsInFlux: s.Flows.SlotsInFlux,
			Sweeps: s.Flows.Sweeps, SweepEntries: s.Flows.Entries, SweepSeconds: s.Flows.Took.Seconds(),
			Remembered: s.Flows.Remembered, Evicted: s.Flows.Evicted,
			EvictedConnections: s.Flows.EvictedConnections, Unremembered: s.Flows.Unremembered,
		},
		NATPorts:      natPortsView(s.NAT),
		FragmentTable: fragmentTableView(s.Fragments),
	}
	for _, r := range s.Reasons {
		view.Reasons[r.Name] = r.Packets
	}
	return view
}

func (a *app) printStatus(w io.Writer, o *observed) {
	s := &o.status
	fmt.Fprintf(w, "Steelyard %s", s.Version)
	if up := ago(a.Now(), s.Started); up != "" {
		fmt.Fprintf(w, ", up %s", up)
	}
	if s.Applied == s.Revision {
		fmt.Fprintf(w, ", revision %d, in force\n", s.Revision)
	} else {
		fmt.Fprintf(w, ", revision %d, but %d is in force\n", s.Revision, s.Applied)
	}
	if s.Error != "" {
		fmt.Fprintf(w, "error: %s\n", s.Error)
	}
	printFlux(w, &s.Flows)
	printNAT(w, &s.NAT)
	printFragments(w, s.Fragments)
	fmt.Fprintln(w)
	printInterfaces(w, s.Interfaces)
	fmt.Fprintln(w)
	if len(s.VIPs)+len(s.Pools) == 0 {
		fmt.Fprintln(w, "Nothing is balanced yet. Add a VIP with: steelyard vip add NAME ADDRESS:PORT --backend ADDRESS ...")
	} else {
		printVIPs(w, s.VIPs)
		fmt.Fprintln(w)
		a.printBackends(w, s.Pools...)
	}
	printReasons(w, s.Reasons)
}

// printFlux says what the flow table holds, while there is something, and sounds
// the alarm if it was too small.
func printFlux(w io.Writer, f *model.FlowTable) {
	if f.SlotsInFlux > 0 || f.Live > 0 {
		fmt.Fprintf(w, "in flux: %s; %d of %d entries of the flow table in use\n", plural(int(f.SlotsInFlux), "slot"), f.Live, f.Capacity)
	}
	if f.EvictedConnections > 0 || f.Unremembered > 0 {
		fmt.Fprintf(w, "ALARM: the flow table had no room: %s evicted, %d not remembered; they may break when backends change; raise limits.flows in the configuration\n",
			plural(int(f.EvictedConnections), "connection"), f.Unremembered)
	}
}

// printNAT says what fullnat has of its ports, while it has any, and sounds the alarm if
// they were too few.
func printNAT(w io.Writer, n *model.NATPorts) {
	if n.Used > 0 {
		fmt.Fprintf(w, "fullnat: %d of %d ports in use\n", n.Used, n.Capacity)
	}
	if n.Exhausted > 0 {
		fmt.Fprintf(w, "ALARM: fullnat had no port for %s that would have begun connections; add addresses to nat.source_ipv4 or nat.source_ipv6 in the configuration\n",
			plural(int(n.Exhausted), "packet"))
	}
}

// printFragments says so if the fragment table was too small.
func printFragments(w io.Writer, f model.FragmentTable) {
	if f.Evicted > 0 {
		fmt.Fprintf(w, "fragments: %d of %s gave way to others, and what was still to come of them is dropped; unless it is an attack, raise limits.fragments in the configuration\n",
			f.Evicted, plural(int(f.Remembered), "packet"))
	}
}

func printInterfaces(w io.Writer, interfaces []model.InterfaceStatus) {
	t := newTable(w, "INTERFACE", "XDP MODE", "WARNING")
	for _, i := range interfaces {
		t.row(i.Name, i.Mode, i.Warning)
	}
	t.flush()
}

// printReasons prints the ways out of the packet path that packets took.
func printReasons(w io.Writer, reasons []model.Reason) {
	var t *table
	for _, r := range reasons {
		if r.Packets == 0 {
			continue
		}
		if t == nil {
			fmt.Fprintln(w)
			fresh := newTable(w, "REASON", "PACKETS")
			t = &fresh
		}
		t.row(r.Name, r.Packets)
	}
	if t != nil {
		t.flush()
	}
}

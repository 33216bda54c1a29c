package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func newSourceList(a *app) *cobra.Command {
	return noun("source-list", "Whom VIPs are for: lists of source prefixes",
		newSourceListSet(a), newSourceListUse(a), newSourceListRemove(a), newSourceListList(a), newSourceListShow(a))
}

func newSourceListSet(a *app) *cobra.Command {
	var file string
	var expect uint64
	cmd := verb("set NAME --file FILE", "Make a source list, or replace what is on one", 1, 1, func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return usage(cmd, "say what is on it: --file FILE")
		}
		prefixes, err := a.readPrefixes(cmd, file)
		if err != nil {
			return err
		}
		set := &steelyardv1.SetSourceList{Name: args[0], Prefixes: prefixes}
		summary := fmt.Sprintf("set source list %s to %s", args[0], prefixCount(len(prefixes)))
		return a.change(cmd.Context(), expect, summary, &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetSourceList{SetSourceList: set}})
	})
	cmd.Long = `Make a source list of a file, or replace all that is on one, in one step: at no moment
does a packet meet half of it. The file has an address or a prefix on each line, of
IPv4 or IPv6; '#' begins a comment. A line that is neither is refused, and nothing changes.`
	cmd.Example = `  steelyard source-list set bad-hosts --file /etc/steelyard/bad-hosts.txt
  curl -s https://example.com/list.txt | steelyard source-list set bad-hosts --file -`
	cmd.Flags().StringVar(&file, "file", "", "`FILE` with a prefix on each line; - is the standard input")
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completeSourceLists)
	return cmd
}

// readPrefixes reads a file of prefixes. What is wrong with it is told with the
// line, of the first few lines.
func (a *app) readPrefixes(cmd *cobra.Command, file string) ([]string, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, invalid("read the source list: %v", err)
		}
		defer f.Close()
		in = f
	}
	var prefixes []string
	var faults []string
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := model.ParseSourcePrefix(text)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s:%d: %v", file, n, err))
			continue
		}
		prefixes = append(prefixes, p.String())
	}
	if err := lines.Err(); err != nil {
		return nil, invalid("read the source list %s: %v", file, err)
	}
	const most = 10
	if more := len(faults) - most; more > 0 {
		faults = append(faults[:most], fmt.Sprintf("%s: and %s more", file, plural(more, "line")))
	}
	if len(faults) > 0 {
		return nil, invalid("%s", strings.Join(faults, "\n"))
	}
	return prefixes, nil
}

func newSourceListUse(a *app) *cobra.Command {
	var f sourceFlags
	var bogus string
	var expect uint64
	cmd := verb("use [--deny LIST] [--allow LIST] [--bogus LIST]", "Say which source lists hold for all VIPs", 0, 0, func(cmd *cobra.Command, _ []string) error {
		if !anyGiven(cmd) {
			return usage(cmd, "nothing to change: give --deny, --allow or --bogus")
		}
		fields := &steelyardv1.NodeSourcesFields{Deny: given(cmd, "deny", f.deny), Allow: given(cmd, "allow", f.allow), Bogus: given(cmd, "bogus", bogus)}
		return a.change(cmd.Context(), expect, "changed the source lists of all VIPs", &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetSources{SetSources: fields}})
	})
	cmd.Long = `Say which source lists hold for all VIPs, besides those that a VIP has itself (vip set
--deny, --allow). What is not given stays; none takes a list away.`
	cmd.Example = `  steelyard source-list use --deny bad-hosts --bogus bogons
  steelyard source-list use --deny none`
	f.register(a, cmd)
	cmd.Flags().StringVar(&bogus, "bogus", "", "`LIST` of addresses that no packet may come from; none: no list")
	a.completeFlagFrom(cmd, "bogus", completeSourceLists)
	registerExpect(cmd, &expect)
	return cmd
}

// sourceFlags name source lists.
type sourceFlags struct{ deny, allow string }

func (f *sourceFlags) register(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.deny, "deny", "", "source `LIST` of those whose packets are dropped; none: no list")
	cmd.Flags().StringVar(&f.allow, "allow", "", "source `LIST` of those whose packets alone are taken; none: no list")
	a.completeFlagFrom(cmd, "deny", completeSourceLists)
	a.completeFlagFrom(cmd, "allow", completeSourceLists)
}

func newSourceListRemove(a *app) *cobra.Command {
	var expect uint64
	cmd := verb("remove NAME", "Remove a source list that nothing uses", 1, 1, func(cmd *cobra.Command, args []string) error {
		return a.change(cmd.Context(), expect, "removed source list "+args[0], &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveSourceList{RemoveSourceList: args[0]}})
	})
	cmd.Aliases = []string{"rm", "delete"}
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completeSourceLists)
	return cmd
}

// sourceListView is a source list for programs.
type sourceListView struct {
	Name         string `json:"name"`
	IPv4Prefixes int    `json:"ipv4_prefixes"`
	IPv6Prefixes int    `json:"ipv6_prefixes"`
	// Digest is the SHA-256 of what is on it.
	Digest string `json:"digest"`
	// UsedBy reads "VIP NAME (deny)", "all VIPs (bogus)".
	UsedBy []string `json:"used_by"`
	// Prefixes are sorted; only show has them.
	Prefixes []string `json:"prefixes,omitempty"`
}

func viewSourceList(s *model.State, l *model.SourceList) sourceListView {
	return sourceListView{l.Name, l.IPv4, l.IPv6, l.Digest.String(), append([]string{}, s.UsersOf(l.Name)...), nil}
}

func newSourceListList(a *app) *cobra.Command {
	cmd := verb("list", "List the source lists", 0, 0, func(cmd *cobra.Command, _ []string) error {
		client := a.client()
		defer client.Close()
		state, _, err := client.Get(cmd.Context())
		if err != nil {
			return err
		}
		lists := views(state.SourceLists, func(l model.SourceList) sourceListView { return viewSourceList(&state, &l) })
		return a.print(lists, func(w io.Writer) { printSourceLists(w, lists) })
	})
	cmd.Aliases = []string{"ls"}
	return cmd
}

func printSourceLists(w io.Writer, lists []sourceListView) {
	t := newTable(w, "LIST", "IPV4 PREFIXES", "IPV6 PREFIXES", "USED BY")
	for _, l := range lists {
		t.row(l.Name, l.IPv4Prefixes, l.IPv6Prefixes, strings.Join(l.UsedBy, ", "))
	}
	t.flush()
}

func newSourceListShow(a *app) *cobra.Command {
	cmd := verb("show NAME", "Show what is on a source list, as set takes it", 1, 1, func(cmd *cobra.Command, args []string) error {
		client := a.client()
		defer client.Close()
		state, _, err := client.Get(cmd.Context())
		if err != nil {
			return err
		}
		l, err := state.SourceList(args[0])
		if err != nil {
			return err
		}
		prefixes, err := client.SourceList(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		view := viewSourceList(&state, l)
		for _, p := range prefixes {
			view.Prefixes = append(view.Prefixes, p.String())
		}
		return a.print(view, func(w io.Writer) {
			fmt.Fprintf(w, "# %s: %d of IPv4, %d of IPv6\n", l.Name, l.IPv4, l.IPv6)
			for _, p := range view.Prefixes {
				fmt.Fprintln(w, p)
			}
		})
	})
	cmd.ValidArgsFunction = a.completeArgs(completeSourceLists)
	return cmd
}

func completeSourceLists(s *model.State, _ []string) []string {
	return views(s.SourceLists, func(l model.SourceList) string { return l.Name + "\t" + prefixCount(l.IPv4+l.IPv6) })
}

func prefixCount(n int) string {
	if n == 1 {
		return "1 prefix"
	}
	return fmt.Sprintf("%d prefixes", n)
}

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// guarded is what the CLI tells of a VIP's guard.
type guarded struct {
	Dropped map[string]uint64 `json:"dropped"`
	Limits  struct {
		Observed map[string]uint64 `json:"observed"`
	} `json:"limits"`
}

// list writes a source list and has the daemon take it.
func (r *rig) list(name string, lines ...string) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), name)
	r.must(os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	r.cli("source-list", "set", name, "--file", file)
}

// served asks once, from the client's own address; those of fetch are others.
func (r *rig) served(address netip.Addr) bool {
	r.t.Helper()
	_, err := r.get(address, 80, "/", "--connect-timeout", "0.5", "--max-time", "10")
	return err == nil
}

func (r *rig) wantServed(when string, want bool, addresses ...netip.Addr) {
	r.t.Helper()
	for _, a := range addresses {
		if got := r.served(a); got != want {
			r.t.Errorf("%s: %s serves the client's own address: %t, want %t", when, a, got, want)
		}
	}
}

// TestSourceLists denies the client's own address, or allows it alone, while all others
// of it are served, or not; across a restart of the daemon, too.
func TestSourceLists(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	more4, more6 := lab.VIP(2)
	r := start(t, lab.Options{Backends: 2}, vip4, vip6, more4, more6)
	r.addPool("web", v4)
	r.cli("vip", "add", "guarded", endpoint(vip4), endpoint(vip6), "--pool", "web")
	r.cli("vip", "add", "open", endpoint(more4), endpoint(more6), "--pool", "web")
	r.waitUp("web", r.Backends...)
	both, all := []netip.Addr{vip4, vip6}, []netip.Addr{vip4, vip6, more4, more6}
	r.wantServed("at first", true, all...)
	own := []string{r.Client.V4.String(), r.Client.V6.String() + "/128 # the client"}

	r.list("own", own...)
	r.wantServed("with a list that nothing names", true, all...)
	r.cli("vip", "set", "guarded", "--deny", "own")
	r.wantServed("denied", false, both...)
	r.wantServed("denied, the other VIP", true, more4, more6)
	for _, a := range all {
		r.fetch(a, 50)
	}
	if n := show[guarded](r, "vip", "show", "guarded").Dropped["drop_denied"]; n == 0 || n > r.status().Reasons["drop_denied"] {
		t.Errorf("the VIP has counted %d denied packets", n)
	}

	r.stopDaemon()
	r.wantServed("denied, without a daemon", false, both...)
	r.startDaemon()
	r.wantServed("denied, after a restart", false, both...)
	r.list("own", "198.18.0.0/15", "2001:db8:bad::/48")
	r.wantServed("denied no more", true, both...)
	r.list("own", own...)
	r.cli("vip", "set", "guarded", "--deny", "none", "--allow", "own")
	r.wantServed("allowed", true, both...)
	ctx, before := r.t.Context(), r.status().Reasons["drop_not_allowed"]
	if answers := r.Client.Fetch(ctx, url(vip4, "/"), 2, 2); answers.Good() != 0 {
		t.Errorf("who is not allowed is answered: %v", answers.Bodies)
	}
	if r.status().Reasons["drop_not_allowed"] == before {
		t.Error("nothing is counted as drop_not_allowed")
	}

	r.cli("vip", "set", "guarded", "--allow", "none")
	r.cli("source-list", "use", "--deny", "own")
	r.wantServed("denied by all", false, all...)
	if _, err := r.Client.Run("ping", "-c", "1", "-W", "1", vip4.String()); err == nil {
		t.Error("a ping of a denied address is answered")
	}
	r.refused(4, "source-list", "remove", "own")
	r.cli("source-list", "use", "--deny", "none")
	r.wantServed("denied by none", true, all...)
	r.cli("source-list", "remove", "own")
}

// TestLargeSourceList: 500,000 prefixes are in force within seconds, and the one that is
// there besides is denied.
func TestLargeSourceList(t *testing.T) {
	t.Parallel()
	vip4, _ := lab.VIP(1)
	r := start(t, lab.Options{Backends: 1}, vip4)
	r.addPool("web", v4)
	r.cli("vip", "add", "web", endpoint(vip4), "--pool", "web", "--mode", "dsr-l2")
	r.waitUp("web", r.Backends...)
	lines := []string{r.Client.V4.String()}
	for i := range 500_000 {
		lines = append(lines, fmt.Sprintf("%d.%d.%d.%d", 100+i>>16, i>>8&255, i&255, 1+i%7))
	}
	r.list("small", r.Client.V4.String())
	r.cli("vip", "set", "web", "--deny", "small")
	r.wantServed("denied", false, vip4)
	begun := time.Now()
	r.list("large", lines...)
	r.cli("vip", "set", "web", "--deny", "large")
	t.Logf("in force after %v", time.Since(begun))
	r.wantServed("denied by many", false, vip4)
	r.fetch(vip4, 20)
	r.stopDaemon()
	begun = time.Now()
	r.startDaemon()
	t.Logf("a daemon with it starts in %v", time.Since(begun))
	r.wantServed("denied by many, after a restart", false, vip4)
	r.list("large", lines[1:]...)
	r.wantServed("denied by others", true, vip4)
}

// TestLimits has a limit observe first, and then enforce.
func TestLimits(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	more4, _ := lab.VIP(2)
	r := start(t, lab.Options{Backends: 2}, vip4, vip6, more4)
	r.addPool("web", v4)
	r.cli("vip", "add", "limited", endpoint(vip4), endpoint(vip6), "--pool", "web", "--limit-connections", "1,burst=20,observe")
	r.cli("vip", "add", "free", endpoint(more4), "--pool", "web")
	r.waitUp("web", r.Backends...)
	const reason = "drop_limit_connections"
	limited := func() guarded { return show[guarded](r, "vip", "show", "limited") }
	r.fetch(vip4, 100)
	r.fetch(vip6, 100)
	if g := limited(); g.Limits.Observed[reason] == 0 || g.Dropped[reason] != 0 {
		t.Errorf("while it observes, the VIP counts %+v", g)
	}
	r.cli("vip", "set", "limited", "--limit-connections", "1,burst=20")
	// A connection whose SYN is dropped is late, and fails if that happens again and again.
	answers := r.Client.Fetch(t.Context(), url(vip4, "/"), 100, 50)
	if limited().Dropped[reason] == 0 || answers.Good() == 100 || answers.Failed() == 0 {
		t.Errorf("%d of 100 requests are answered, with at most one more each second", answers.Good())
	}
	t.Logf("%d of 100 requests were answered", answers.Good())
	r.fetch(more4, 100)
	r.cli("vip", "set", "limited", "--limit-connections", "none", "--limit-source-connections", "1,burst=1")
	// The first connection of each source passes; fetch has 254 of them.
	r.fetch(vip4, 50)
	if limited().Dropped["drop_limit_source_connections"] != 0 {
		t.Errorf("sources that come once are dropped")
	}
	for range 3 {
		r.served(vip4)
	}
	if limited().Dropped["drop_limit_source_connections"] == 0 {
		t.Errorf("a source that comes again at once is not dropped")
	}
	if limits := show[struct {
		Limits map[string]any `json:"limits"`
	}](r, "vip", "show", "limited").Limits; limits["connections"] != "none" || limits["source_connections"] != "1,burst=1" {
		t.Errorf("the limits read %v", limits)
	}
}

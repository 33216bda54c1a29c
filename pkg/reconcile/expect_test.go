package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// expect compares what is with what a line says.
func (s *scene) expect(args []string) error {
	switch what, rest := args[0], args[1:]; what {
	case "slots":
		return same(s.slots(rest[0]), strings.Join(rest[1:], " "))
	case "tables-kept":
		return s.tablesKept()
	case "no-change":
		return s.noChange()
	case "reset":
		p := s.plane.applied.Pool(rest[0])
		return same(strconv.FormatBool(p != nil && p.Reset), rest[1])
	case "paths":
		addrs := slices.SortedFunc(maps.Keys(s.plane.applied.Paths), netip.Addr.Compare)
		return same(list(addrs), strings.Join(rest, " "))
	case "path":
		return s.expectPath(rest[0], rest[1:])
	case "followed":
		return same(list(s.resolver.wanted), strings.Join(rest, " "))
	case "checked":
		var keys []string
		for _, t := range s.checker.targets {
			keys = append(keys, fmt.Sprintf("%s/%s/%s", t.Pool, t.Backend, t.Key.Check))
		}
		return same(list(keys), strings.Join(rest, " "))
	case "attempts":
		return same(strconv.Itoa(s.plane.attempts-s.before.attempts), rest[0])
	case "ready":
		return same(strconv.FormatBool(s.ready), rest[0])
	case "note":
		return same(s.store.note, rest[0])
	case "logged":
		return same(strconv.Itoa(strings.Count(s.log.String(), rest[1])), rest[0])
	case "status", "vip", "backend":
		return s.expectStatus(what, rest)
	}
	return fmt.Errorf("unknown expectation %q", args[0])
}

func same(got, want string) error {
	if got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// list renders things with spaces between them, or "none".
func list[T any](things []T) string {
	if len(things) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(things), "[]")
}

// slots renders the members of a pool in the plane with their shares.
func (s *scene) slots(pool string) string {
	p := s.plane.applied.Pool(pool)
	if p == nil {
		return "no pool"
	}
	shares := p.Shares()
	var out []string
	for _, m := range p.Members {
		out = append(out, fmt.Sprintf("%s=%.0f%%", m.ID, 100*float64(shares[m.ID])/float64(p.Slots)))
	}
	return list(out)
}

// tablesKept says that the last step left every pool the very table it had.
func (s *scene) tablesKept() error {
	before := s.before.applied.Pools
	if len(before) != len(s.plane.applied.Pools) {
		return fmt.Errorf("there were %d pools, now there are %d", len(before), len(s.plane.applied.Pools))
	}
	for i, now := range s.plane.applied.Pools {
		if now.Table != before[i].Table {
			return fmt.Errorf("pool %q has another table", now.Name)
		}
	}
	return nil
}

// noChange says that the last step changed neither desired state nor packets.
func (s *scene) noChange() error {
	now := s.picture()
	switch {
	case now.revision != s.before.revision, now.saves != s.before.saves, !reflect.DeepEqual(now.desired, s.before.desired):
		return fmt.Errorf("the desired state went from revision %d to %d in %d writes", s.before.revision, now.revision, now.saves-s.before.saves)
	case !reflect.DeepEqual(now.applied, s.before.applied):
		return fmt.Errorf("%+v became %+v", s.before.applied, now.applied)
	}
	return s.tablesKept()
}

func (s *scene) expectPath(address string, args []string) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	path, found := s.plane.applied.Paths[addr]
	if !found {
		return errors.New("there is no path")
	}
	return compare(args, pathFields(path))
}

func pathFields(p forwarding.Path) map[string]string {
	return map[string]string{
		"link": strconv.Itoa(p.Link), "vlan": strconv.Itoa(int(p.VLAN)), "mtu": strconv.Itoa(p.MTU), "outer": p.Outer.String(),
		"from": net.HardwareAddr(p.Source[:]).String(), "to": net.HardwareAddr(p.Destination[:]).String(), "on-link": strconv.FormatBool(p.OnLink),
	}
}

// compare looks up each "key=value" of a line.
func compare(args []string, got map[string]string) error {
	for key, want := range settings(args) {
		value, known := got[key]
		if !known {
			return fmt.Errorf("unknown key %q", key)
		}
		if value != want {
			return fmt.Errorf("%s is %q, want %q", key, value, want)
		}
	}
	return nil
}

// expectStatus asks the loop itself.
func (s *scene) expectStatus(what string, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	status, err := s.loop.Status(ctx)
	if err != nil {
		if what == "status" && len(args) == 1 && args[0] == "failure="+err.Error() {
			return nil
		}
		return err
	}
	switch what {
	case "vip":
		for _, v := range status.VIPs {
			if v.Name == args[0] {
				return compare(args[1:], map[string]string{"available": strconv.FormatBool(v.Available), "pool": v.Pool})
			}
		}
		return errors.New("there is no such VIP")
	case "backend":
		for _, p := range status.Pools {
			for _, b := range p.Backends {
				if p.Name == args[0] && b.String() == args[1] {
					return compare(args[2:], backendFields(b))
				}
			}
		}
		return errors.New("there is no such backend")
	}
	return compare(args, map[string]string{
		"revision": strconv.FormatUint(status.Revision, 10), "applied": strconv.FormatUint(status.Applied, 10), "error": status.Error,
	})
}

func backendFields(b model.BackendStatus) map[string]string {
	return map[string]string{
		"health": b.Health.String(), "state": b.State.String(), "slots": strconv.FormatUint(uint64(b.Slots), 10), "checks": strconv.Itoa(len(b.Checks)),
		"flows": strconv.FormatUint(b.Flows, 10), "counted": strconv.FormatUint(b.Counted, 10), "full": strconv.FormatBool(b.Full), "keeps": strconv.FormatBool(b.KeepsFlows), "mac": b.NextHop.MAC, "interface": b.NextHop.Interface, "problem": b.NextHop.Problem,
	}
}

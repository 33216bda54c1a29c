package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestReturnGateway sees answers come through the balancer, and go on doing so after
// it has forwarded some.
func TestReturnGateway(t *testing.T) {
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d interfaces", interfaces), func(t *testing.T) {
			l := lab.Start(t, lab.Options{Interfaces: interfaces, Backends: 1, Return: lab.ReturnGateway})
			b := l.Backends[0]
			for _, way := range []struct{ client, backend, balancer netip.Addr }{
				{netip.MustParseAddr("203.0.113.77"), b.V4, l.Balancer.V4},
				{netip.MustParseAddr("2001:db8:113::77"), b.V6, l.Balancer.V6},
			} {
				// Two pings: a redirect would come with the first.
				for range 2 {
					if _, err := l.Client.Run("ping", "-n", "-q", "-c", "1", "-W", "5", "-I", way.client.String(), way.backend.String()); err != nil {
						t.Error(err)
					}
				}
				if out, err := b.Run("ip", "route", "get", way.client.String()); err != nil || !strings.Contains(out, "via "+way.balancer.String()+" ") {
					t.Errorf("%s goes to %s: %s, %v", b.Name, way.client, out, err)
				}
			}
			vip4, vip6 := lab.VIP(1)
			for _, vip := range []netip.Addr{vip4, vip6} {
				if _, err := l.Client.Dial(deadline(t), "tcp", netip.AddrPortFrom(vip, 80).String(), netip.Addr{}); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
					t.Errorf("%s, which nobody serves: %v", vip, err)
				}
			}
		})
	}
}

// TestReturnSNAT sees backends that reach what the balancer has for them to answer to,
// and nothing else; from there, the balancer itself sends nothing.
func TestReturnSNAT(t *testing.T) {
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d interfaces", interfaces), func(t *testing.T) {
			l := lab.Start(t, lab.Options{Interfaces: interfaces, Backends: 1, Return: lab.ReturnSNAT})
			b := l.Backends[0]
			if _, err := b.Nginx(t.Context(), lab.Site{}); err != nil {
				t.Fatal(err)
			}
			snat4, snat6 := lab.SNAT()
			for _, prefix := range []netip.Prefix{snat4, snat6} {
				for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
					if _, err := b.Run("ping", "-n", "-q", "-c", "1", "-W", "5", a.String()); err != nil {
						t.Error(err)
					}
				}
			}
			for _, client := range []netip.Addr{l.Client.V4, l.Client.V6} {
				if out, err := b.Run("ip", "route", "get", client.String()); err == nil {
					t.Errorf("%s knows a way to %s: %s", b.Name, client, out)
				}
			}
			for _, way := range []struct{ balancer, backend netip.Addr }{{l.Balancer.V4, b.V4}, {l.Balancer.V6, b.V6}} {
				if a := fetchFrom(deadline(t), l.Balancer, url(way.backend, "/client")); a != way.balancer.String() {
					t.Errorf("the balancer's own requests come from %s, want %s", a, way.balancer)
				}
			}
		})
	}
}

// fetchFrom is the one answer to one request, or empty.
func fetchFrom(ctx context.Context, h *lab.Host, url string) string {
	for body := range h.Fetch(ctx, url, 1, 1).Bodies {
		return body
	}
	return ""
}

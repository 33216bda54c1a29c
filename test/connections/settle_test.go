package connections_test

import (
	"fmt"
	"testing"
	"time"
)

// TestEverythingSettles keeps connections through churn that takes longer than
// the idle timeout, so that slots settle under them. When all have ended,
// nothing is in flux and nothing is remembered.
func TestEverythingSettles(t *testing.T) {
	for _, p := range settlePaths() {
		t.Run(p.String(), func(t *testing.T) { everythingSettles(t, p) })
	}
}

func settlePaths() []path {
	paths := []path{{mode: "dsr-l2"}}
	if full() {
		paths = append(paths,
			path{mode: "dsr-l2", ipv6: true},
			path{mode: "dsr-ipip"},
			path{mode: "dsr-ipip", ipv6: true},
			path{mode: "dsr-gue", transport: quic},
			path{mode: "dsr-gue", ipv6: true, transport: quic},
		)
	}
	return paths
}

func everythingSettles(t *testing.T, p path) {
	s := newSite(t, p, 10, 2*time.Second)
	s.web.open(s.size().connections)
	s.web.welcome()
	for round := range 3 {
		for n := 6; n <= backends; n++ {
			s.cli("backend", []string{"drain", "enable"}[round%2], "web", s.address(n))
			s.web.talked()
		}
		// Flows are counted by a sweep, which may still be on its way.
		s.wait("amid churn flows are remembered", func(now status) error {
			if now.Flows.Live == 0 || now.Flows.SlotsInFlux == 0 {
				return fmt.Errorf("%d flows remembered, %d slots in flux", now.Flows.Live, now.Flows.SlotsInFlux)
			}
			return nil
		})
	}
	connections, broken := s.web.finish()
	if len(broken) > 0 {
		t.Errorf("%d of %d connections are broken", len(broken), connections)
		s.report(broken)
	}
	s.waitSettled()
}

// waitSettled waits until no slot is in flux and no flow is remembered.
func (s *site) waitSettled() {
	s.t.Helper()
	s.wait("everything is settled", func(status status) error {
		if status.Flows.Live != 0 || status.Flows.SlotsInFlux != 0 {
			return fmt.Errorf("%d flows are remembered, %d slots in flux", status.Flows.Live, status.Flows.SlotsInFlux)
		}
		return nil
	})
}

// TestSettledTableStaysEmpty floods slots that are settled: nothing is
// remembered. The same flood on slots in flux is.
func TestSettledTableStaysEmpty(t *testing.T) {
	for _, p := range settlePaths() {
		t.Run(p.String(), func(t *testing.T) { settledTableStaysEmpty(t, p) })
	}
}

func settledTableStaysEmpty(t *testing.T, p path) {
	s := newSite(t, p, 10, 2*time.Second)
	s.waitSettled()
	before := s.status()
	s.flood(s.size().settled)
	after := s.status()
	if after.Flows.Live != 0 || after.Flows.Remembered != before.Flows.Remembered {
		t.Errorf("after %d openers on settled slots, %d flows are in the table and %d were remembered",
			s.size().settled, after.Flows.Live, after.Flows.Remembered-before.Flows.Remembered)
	}
	s.cli("backend", "drain", "web", s.address(1))
	s.flood(s.size().settled / 10)
	s.wait("flows on slots in flux are remembered", func(now status) error {
		if now.Flows.Remembered == before.Flows.Remembered {
			return fmt.Errorf("%d flows", now.Flows.Remembered)
		}
		return nil
	})
}

package connections_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// seedVariable repeats a run of [TestChurn].
const seedVariable = "STEELYARD_CHURN_SEED"

// TestChurn does at random what must not break anything, for longer than the
// idle timeout, so that slots settle in between.
func TestChurn(t *testing.T) {
	seed := rand.Uint64()
	if given := os.Getenv(seedVariable); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	turmoil := scenario{pool: 5, idleTimeout: 5 * time.Second, disturb: func(s *site) {
		s.addPool("other", 6, backends)
		for range s.size().churn {
			churn(s, random)
		}
	}}
	for _, p := range churnPaths() {
		name := "random-churn" + p.suffix()
		t.Run(name, func(t *testing.T) { turmoil.run(t, name, p) })
	}
}

// churnPaths are few in the short form.
func churnPaths() []path {
	paths := []path{{mode: "dsr-l2"}}
	if full() {
		paths = append(paths,
			path{mode: "dsr-l2", ipv6: true},
			path{mode: "dsr-ipip"},
			path{mode: "dsr-gue", ipv6: true},
			path{mode: "dsr-gue", transport: quic},
			path{mode: "dsr-ipip", ipv6: true, transport: roaming},
			path{mode: "nat"},
			path{mode: "fullnat", ipv6: true},
		)
	}
	return paths
}

// churn takes one step. A command that the state does not allow, such as to add
// what is there already, is refused and does no harm. The first backends of each
// pool are left alone, so that there is always somebody for new connections.
func churn(s *site, random *rand.Rand) {
	pool, untouched := "web", 2
	if random.IntN(3) == 0 {
		pool, untouched = "other", 7
	}
	n := untouched + 1 + random.IntN(backends-untouched)
	backend := s.address(n)
	steps := [][]string{
		s.adding(pool, n),
		s.adding(pool, n),
		{"backend", "drain", pool, backend},
		{"backend", "drain", pool, backend},
		{"backend", "enable", pool, backend},
		{"backend", "enable", pool, backend},
		{"backend", "remove", pool, backend},
		{"backend", "set", pool, backend, "--weight", strconv.Itoa(random.IntN(10))},
		{"pool", "set", pool, "--table-size", []string{"251", "4099", "65537"}[random.IntN(3)]},
		{"vip", "set", "web", "--pool", pool},
		{"vip", "set", "control", "--pool", pool},
	}
	step := steps[random.IntN(len(steps))]
	switch random.IntN(12) {
	case 0:
		s.restart()
	case 1:
		s.crash(step...)
	default:
		s.try(step...)
	}
	if random.IntN(2) == 0 {
		s.talked()
	}
}

package main

// testCase is one figure of a benchmark.
type testCase struct {
	name, unit string
	// benchmark and metric say where it stands in the output of go test; what stands
	// there, times factor, is in unit.
	benchmark, metric string
	factor            float64
	target            target
}

// target is what a figure is to be; the zero target asks for nothing.
type target struct {
	// bound is the most, or the least if there is a floor, in the unit of the case.
	bound float64
	floor bool
}

func atMost(n float64) target  { return target{bound: n} }
func atLeast(n float64) target { return target{bound: n, floor: true} }

// met reports whether a figure is as it is to be.
func (t target) met(n float64) bool {
	if t.floor {
		return n >= t.bound
	}
	return n <= t.bound
}

// The factors from a benchmark's units to those of the page.
const (
	asIs        = 1
	nsToMs      = 1e-6
	nsToS       = 1e-9
	perSecToMio = 1e-6
)

const large = "vips=10000/pools=1000/backends=100"

func cases() []testCase {
	build := func(slots, backends string, t target) testCase {
		return testCase{"Maglev table, " + slots + " slots, " + backends + " backends", "ms",
			"Build/weights=equal/size=" + slots + "/backends=" + backends, "ns/op", nsToMs, t}
	}
	var none target
	return []testCase{
		build("65537", "10", none),
		build("65537", "100", none),
		build("65537", "1000", atMost(2)),
		build("655373", "10", none),
		build("655373", "100", none),
		build("655373", "1000", none),
		{"slots written", "million/s", "Move", "slots/s", perSecToMio, none},
		{"one backend of 1000 goes or returns: decision to last slot", "ms", "Transition/1000", "ns/op", nsToMs, atMost(5)},
		{"the same with real checks of all: end of the failed check to last slot", "ms", "Failover/backends=1000", "ms/failure", asIs, atMost(5)},
		{"the same, end of the check that passes again to last slot", "ms", "Failover/backends=1000", "ms/return", asIs, atMost(5)},
		{"large state from cold: tables and maps", "s", "ApplyCold", "ns/op", nsToS, atMost(5)},
		{"large state, one backend goes or returns", "ms", "ApplyChange", "ns/op", nsToMs, atMost(20)},
		{"large state from cold: start of the daemon to its readiness", "s", "ColdStart/" + large, "s/start", asIs, atMost(5)},
		{"large state: memory of all maps", "MB", "ColdStart/" + large, "MB-maps", asIs, atMost(700)},
		{"large state: memory of the daemon", "MB", "ColdStart/" + large, "MB-daemon", asIs, atMost(300)},
		{"small state: start of the daemon to its readiness", "s", "ColdStart/vips=10/pools=10/backends=10", "s/start", asIs, none},
		{"small state: memory of all maps", "MB", "ColdStart/vips=10/pools=10/backends=10", "MB-maps", asIs, none},
		{"small state: memory of the daemon", "MB", "ColdStart/vips=10/pools=10/backends=10", "MB-daemon", asIs, none},
		{"TCP checks of 20,000 backends, each once a second", "checks/s", "Checks", "checks/s", asIs, atLeast(19_500)},
		{"the same: processor time of the daemon", "cores", "Checks", "cores", asIs, none},
		// 20,000 of them in a second of one core.
		{"the same: processor time of a check", "µs", "Checks", "cpu-µs/check", asIs, atMost(50)},
		{"the same: memory of the daemon", "MB", "Checks", "MB-daemon", asIs, none},
		{"sweep of 16 million flow-table entries, empty", "ms", "Sweep/full=0%", "ns/op", nsToMs, none},
		{"sweep of 16 million flow-table entries, three quarters live", "ms", "Sweep/full=75%", "ns/op", nsToMs, none},
		{"memory of a flow-table entry", "bytes", "Sweep/full=75%", "B/entry", asIs, atMost(16)},
	}
}

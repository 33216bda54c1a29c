package main

import (
	"time"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

// kernelModules is what the tests need of a kernel: devices of the lab, and
// tunnels for the backends.
func kernelModules() []string {
	return []string{
		"veth", "bridge", "dummy", "macvlan", "8021q",
		"ipip", "sit", "ip6_tunnel", "fou", "fou6",
	}
}

// programs of this machine that tests run.
func programs() []string { return []string{"ip", "ethtool", "nsenter", "nginx"} }

// job is a run of the tests of a package, compiled with build tags.
type job struct {
	plan.Job
	pkg, tags string
}

// jobs is what runs on every kernel: what packets meet there.
func jobs() []job {
	return []job{
		{pkg: "test/kernels", Job: plan.Job{Name: "verifier", Tests: []string{"TestVerifier", "TestVerifierRefuses"}}},
		{pkg: "test/kernels", Job: plan.Job{Name: "tunnels", Tests: []string{"TestTunnels"}}},
		{pkg: "pkg/backend", Job: plan.Job{Name: "backend", Tests: []string{
			"TestTraffic", "TestClaims", "TestFallsBackToGeneric", "TestDecapPackets", "TestCongestionChecksum",
		}}},
		// Programs for other limits or options are loaded, which emulation takes seconds for.
		{pkg: "pkg/dataplane", Job: plan.Job{Name: "dataplane", Tests: []string{
			"TestPackets", "TestFuzz", "TestAnswersAreFew", "TestErrorsReachTheBackendOfTheirFlow", "TestFragmentsFollowTheFirst",
			"TestEarlyFragments", "TestOpenersOfQUIC", "TestConnectionIDs", "TestAffineFlows", "TestPorts",
			"TestSettledKeepsNoState", "TestUDPIsTracked", "TestGuard", "TestLimits", "TestScreening",
			"TestNATBothWays", "TestSplices", "TestRepliesToOthers", "TestConnectionIDsOfFullNAT", "TestGuardsOfNAT",
			"TestAttachNative", "TestAttachGeneric",
		}}},
	}
}

// unable lists tests that a line of kernels cannot run.
func unable(line string) map[string][]string {
	switch line {
	case "6.1":
		// It takes 32 bytes of metadata before a frame, not the 200 of these.
		return map[string][]string{"dataplane": {"TestPackets/ipv./.*/no_headroom", "TestFuzz"}}
	}
	return nil
}

// jobTimeout is for one job. Emulation is slow, and so may be the machine.
const jobTimeout = 12 * time.Minute

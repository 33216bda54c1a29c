package health

import (
	"context"
	"fmt"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The results of probes, in HAProxy's words (its management guide, section
// 9.1, check_status).
const (
	// L4OK: the connection was accepted, the echo answered, the datagram not refused.
	L4OK = "L4OK"
	// L4TOUT: no answer on layers 1 to 4 in time.
	L4TOUT = "L4TOUT"
	// L4CON: refused, or unreachable.
	L4CON = "L4CON"
	// L6RSP: the TLS handshake failed.
	L6RSP = "L6RSP"
	// L6TOUT: the TLS handshake took too long.
	L6TOUT = "L6TOUT"
	// L7OK: the server answered as expected.
	L7OK = "L7OK"
	// L7STS: the answer has the wrong status.
	L7STS = "L7STS"
	// L7RSP: the answer is invalid, or lacks what was expected.
	L7RSP = "L7RSP"
	// L7TOUT: the server did not answer in time.
	L7TOUT = "L7TOUT"
	// SOCKERR: this host could not probe, for want of descriptors, ports or
	// permission. It says nothing of the backend and counts neither way.
	SOCKERR = "SOCKERR"
)

// outcome is what one probe found.
type outcome struct {
	result, detail string
	// health is what the probe argues for: up, down, or unknown where it
	// could not tell.
	health model.Health
}

func pass(result, detail string) outcome { return outcome{result, detail, model.HealthUp} }
func fail(result, detail string) outcome { return outcome{result, detail, model.HealthDown} }
func unable(detail string) outcome       { return outcome{SOCKERR, detail, model.HealthUnknown} }

// target is one check of one backend with its state. While the probe is in
// flight it is in nobody's queue, so that it can never be probed twice at once.
type target struct {
	Target
	// status is replaced, never written to: snapshots share it.
	status *model.CheckStatus
	// streak counts the latest probes in a row that contradict status.Health.
	streak uint32
	// provisional health gives way to the first probe.
	provisional bool

	// started is when the last probe began, due when the next one may.
	started, due time.Time
	// place in the queue, or absent.
	place int
	// cancel ends the probe in flight; nil when there is none.
	cancel context.CancelFunc
	// discard says that the probe in flight asks what is no longer asked.
	discard bool
}

func newTarget(t Target, now time.Time) *target {
	return &target{
		Target:      t,
		status:      &model.CheckStatus{Name: t.Key.Check, Since: now},
		provisional: true,
		place:       absent,
	}
}

// restore starts from a result of an earlier run. One that is younger than the
// time that the check takes to notice a failure is as good as if there had been
// no pause; an older one counts until the first probe.
func (t *target) restore(last model.CheckStatus, now time.Time) {
	last.Name = t.Key.Check
	t.status = &last
	t.provisional = now.Sub(last.Checked) > time.Duration(t.Check.Fall)*t.Check.Interval
}

// judge records the outcome of a probe and reports whether health changed.
// Probes are counted in a row, never cumulatively; the first of all decides alone.
func (t *target) judge(o outcome, took time.Duration, ended time.Time) bool {
	s := *t.status
	t.status = &s
	s.Result, s.Detail, s.Checked, s.Duration = o.result, o.detail, ended, took
	if o.health == model.HealthUnknown {
		return false
	}
	first := t.provisional
	t.provisional = false
	if o.health == s.Health {
		t.streak = 0
		return false
	}
	t.streak++
	need := t.Check.Rise
	if o.health == model.HealthDown {
		need = t.Check.Fall
	}
	if !first && t.streak < need {
		return false
	}
	t.streak = 0
	s.Health, s.Since, s.Reason = o.health, ended, reason(o, took, first, need)
	return true
}

// reason puts a change of health into words.
func reason(o outcome, took time.Duration, first bool, need uint32) string {
	which := fmt.Sprintf("%d of %d probes", need, need)
	if first {
		which = "first probe"
	}
	if o.health == model.HealthUp {
		return fmt.Sprintf("%s passed: %s after %v", which, o.result, rounded(took))
	}
	return fmt.Sprintf("%s failed: %s after %v, %s", which, o.result, rounded(took), o.detail)
}

// rounded keeps about three digits of a duration.
func rounded(d time.Duration) time.Duration {
	for unit := time.Second; unit > time.Microsecond; unit /= 1000 {
		if d >= unit {
			return d.Round(unit / 100)
		}
	}
	return d.Round(time.Microsecond / 10)
}

package health

import (
	"net/netip"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

var epoch = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// judged feeds a target one probe a second, '+' passed, '-' failed, '?' could
// not be made, and returns its health after each: 'u', 'd' or '?'.
func judged(t *testing.T, tg *target, probes string) string {
	t.Helper()
	var healths []byte
	for i, p := range probes {
		o := unable("out of descriptors")
		switch p {
		case '+':
			o = pass(L7OK, "status 200")
		case '-':
			o = fail(L7STS, "status 503, want 200 to 399")
		}
		before, ended := tg.status.Health, tg.status.Checked.Add(time.Second)
		changed := tg.judge(o, 2*time.Millisecond, ended)
		if now := tg.status; changed != (now.Health != before) || changed != now.Since.Equal(ended) {
			t.Fatalf("probe %d: changed is %v from %v to %v, since %v", i, changed, before, now.Health, now.Since)
		}
		healths = append(healths, "?ud"[tg.status.Health])
	}
	return string(healths)
}

func fresh(rise, fall uint32) *target {
	return newTarget(aim(netip.MustParseAddrPort("192.0.2.1:80"), model.Check{Type: model.CheckHTTP, Rise: rise, Fall: fall}), epoch)
}

func TestRiseAndFall(t *testing.T) {
	for _, tt := range []struct {
		name           string
		rise, fall     uint32
		probes, health string
	}{
		{"first passes", 5, 3, "+", "u"},
		{"first fails", 2, 5, "-", "d"},
		{"falls at the third in a row", 2, 3, "+---", "uuud"},
		{"rises at the second in a row", 2, 3, "-++", "ddu"},
		{"failures do not add up", 2, 3, "+--+--+--+-+-", "uuuuuuuuuuuuu"},
		{"passes do not add up", 3, 3, "-++-++-++-", "dddddddddd"},
		{"counting starts over after a change", 2, 3, "+---+-++---", "uuudddduuud"},
		{"one each", 1, 1, "+-+-", "udud"},
		{"own failures count neither way", 2, 3, "??+-?-?-?+?+", "??uuuuuddddu"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := judged(t, fresh(tt.rise, tt.fall), tt.probes); got != tt.health {
				t.Errorf("probes %s\nmake   %s\nwant   %s", tt.probes, got, tt.health)
			}
		})
	}
}

func TestStatusAndReason(t *testing.T) {
	tg := fresh(2, 3)
	if s := *tg.status; s != (model.CheckStatus{Name: "http", Since: epoch}) {
		t.Errorf("a new target is %+v", s)
	}
	for _, tt := range []struct{ probes, result, detail, reason string }{
		{"?", SOCKERR, "out of descriptors", ""},
		{"+", L7OK, "status 200", "first probe passed: L7OK after 2ms"},
		{"--", L7STS, "status 503, want 200 to 399", "first probe passed: L7OK after 2ms"},
		{"-", L7STS, "status 503, want 200 to 399", "3 of 3 probes failed: L7STS after 2ms, status 503, want 200 to 399"},
		{"++", L7OK, "status 200", "2 of 2 probes passed: L7OK after 2ms"},
	} {
		before := *tg.status
		kept := tg.status
		judged(t, tg, tt.probes)
		s := tg.status
		if s.Result != tt.result || s.Detail != tt.detail || s.Reason != tt.reason || s.Duration != 2*time.Millisecond {
			t.Errorf("after %s: %+v, want %+v", tt.probes, s, tt)
		}
		if *kept != before {
			t.Error("a status that a snapshot may share was written to")
		}
	}
}

func TestRounded(t *testing.T) {
	for in, want := range map[time.Duration]string{
		1001234567: "1s", 1234567890: "1.23s", 12345678: "12.35ms", 1002345: "1ms", 123456: "123.5µs", 12: "0s",
	} {
		if got := rounded(in).String(); got != want {
			t.Errorf("%v is rounded to %s, want %s", in, got, want)
		}
	}
}

func TestRestoredJudgement(t *testing.T) {
	up := model.CheckStatus{Name: "other", Health: model.HealthUp, Since: epoch.Add(-time.Hour), Reason: "first probe passed"}
	down := up
	down.Health = model.HealthDown
	const window = 3 * model.DefaultCheckInterval
	for _, tt := range []struct {
		name           string
		last           model.CheckStatus
		age            time.Duration
		probes, health string
	}{
		{"fresh up falls as ever", up, window, "---", "uud"},
		{"old up falls at once", up, window + 1, "-", "d"},
		{"old up stays on success", up, window + 1, "+--", "uuu"},
		{"fresh down rises as ever", down, 0, "++", "du"},
		{"old down rises at once", down, time.Hour, "+", "u"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tg := fresh(2, 3)
			tt.last.Checked = epoch.Add(-tt.age)
			tg.restore(tt.last, epoch)
			if s := *tg.status; s.Name != "http" || s.Since != tt.last.Since || s.Health != tt.last.Health {
				t.Errorf("restored as %+v", s)
			}
			if got := judged(t, tg, tt.probes); got != tt.health {
				t.Errorf("probes %s make %s, want %s", tt.probes, got, tt.health)
			}
		})
	}
}

func TestJitterAndStagger(t *testing.T) {
	for _, tt := range []struct {
		percent uint32
		at      float64
		want    time.Duration
	}{
		{0, 0, time.Second}, {0, 1, time.Second},
		{20, 0, 800 * time.Millisecond}, {20, 0.5, time.Second}, {20, 1, 1200 * time.Millisecond},
		{50, 0, 500 * time.Millisecond}, {50, 1, 1500 * time.Millisecond},
	} {
		if got := jittered(time.Second, tt.percent, tt.at); got != tt.want {
			t.Errorf("1s with %d%% at %v is %v, want %v", tt.percent, tt.at, got, tt.want)
		}
	}
	if first := stagger(0, time.Second); first != 0 {
		t.Errorf("a lone target waits %v", first)
	}
	starts := map[time.Duration]int{}
	for n := range 20000 {
		wait := stagger(n, 2*time.Second)
		if wait < 0 || wait >= 2*time.Second {
			t.Fatalf("target %d waits %v", n, wait)
		}
		starts[wait.Truncate(10*time.Millisecond)]++
	}
	for at, n := range starts {
		if n > 200 {
			t.Errorf("%d of 20000 targets start within 10ms at %v", n, at)
		}
	}
	if wait := stagger(1e6, time.Second); wait >= time.Second {
		t.Errorf("a target waits %v, longer than its interval", wait)
	}
}

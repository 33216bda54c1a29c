package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// fewestRows is how many rows the packet table must have.
const fewestRows = 2000

// TestPackets sends every row of the packet table through the program.
func TestPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rows := l.rows()
	if len(rows) < fewestRows {
		t.Fatalf("%d rows, at least %d expected", len(rows), fewestRows)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.name] {
			t.Errorf("two rows are called %q", r.name)
		}
		seen[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			if err := l.check(r); err != nil {
				t.Error(err)
			}
		})
	}
	t.Logf("%d rows", len(rows))
}

// withoutRow are the reasons that no row can have, with the test that reaches each.
func withoutRow() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"drop_internal":  TestContradictionsAreCounted,
		"drop_tcp_flags": TestScreening, "drop_land": TestScreening, "drop_bogus_source": TestScreening,
		"drop_denied": TestGuard, "drop_not_allowed": TestGuard,
		"drop_limit_packets": TestLimits, "drop_limit_connections": TestLimits, "drop_limit_source_packets": TestLimits, "drop_limit_source_connections": TestLimits,
		"drop_limit_backend": TestBackendLimit,
		"tx_syn_cookie":      TestCookiesOfFramesWithMore, "tx_syn_ack": TestSplices, "drop_syn_flood": TestSYNsThatNoCookieAnswers,
	}
}

// TestEveryReasonHasARow: no way out of the program that nothing has taken.
func TestEveryReasonHasARow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rows := map[string]int{}
	translated, _ := natRows(t)
	for _, r := range append(l.rows(), translated...) {
		rows[r.reason]++
	}
	for _, reason := range l.reasons {
		if _, elsewhere := withoutRow()[reason]; (rows[reason] == 0) != elsewhere {
			t.Errorf("%s has %d rows", reason, rows[reason])
		}
	}
}

// TestContradictionsAreCounted has VIPs name a pool that there is no room for.
func TestContradictionsAreCounted(t *testing.T) {
	p := loaded(t, smallLimits())
	applyTo(t, p, stateOf(services(loopback)))
	for i := range p.vips.elements {
		p.vips.elements[i].Pool = math.MaxUint16
	}
	for _, f := range families() {
		in := f.packet(tcp{from: 4000, to: portL2, flags: flagACK})
		for _, frame := range [][]byte{in.bytes(), f.reports(f.anyError(), answeredBy(in), 100).bytes()} {
			before := p.count(t, "drop_internal")
			expectVerdict(t, p, frame, xdpDrop)
			if p.count(t, "drop_internal") != before+1 {
				t.Errorf("%s: not counted as drop_internal", f.name)
			}
		}
	}
}

func (l *lab) rows() []row {
	rows := literalRows(l)
	for _, f := range families() {
		for _, topic := range []func(*lab, family) []row{
			l2Rows, tunnelRows, vlanRows, foreignRows, echoRows, downRows, resetRows, unreachableRows, sizeRows,
			extensionRows, truncatedRows, malformedRows, fragmentRows, eagerRows, answerRows, icmpErrorRows, clampRows, groupRows,
		} {
			rows = append(rows, topic(l, f)...)
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.name, b.name) })
	return rows
}

// TestPacketTableNotices is the negative control of the packet table: a row that
// expects anything but what happens must fail.
func TestPacketTableNotices(t *testing.T) {
	l := newLab(t)
	s := l.at(ipv4(), portTunnel4)
	good := s.forwards("good", ipv4().packet(tcp{from: 1, to: s.port, flags: flagSYN}))
	if err := l.check(good); err != nil {
		t.Fatalf("the row that the others are made from fails: %v", err)
	}
	for name, spoil := range map[string]func(*row){
		"first byte of the frame": func(r *row) { r.out = set(r.out, 0, r.out[0]^1) },
		"checksum outside":        func(r *row) { r.out = set(r.out, 24, r.out[24]^1) },
		"last byte of the frame":  func(r *row) { r.out = set(r.out, len(r.out)-1, r.out[len(r.out)-1]^1) },
		"frame a byte longer":     func(r *row) { r.out = append(set(r.out, 0), 0) },
		"frame a byte shorter":    func(r *row) { r.out = r.out[:len(r.out)-1] },
		"frame untouched":         func(r *row) { r.out = nil },
		"other verdict":           func(r *row) { r.reason = "redirect_forwarded" },
		"other reason":            func(r *row) { r.reason = "tx_reset" },
		"reason unheard of":       func(r *row) { r.reason = "tx_unheard_of" },
		"other VIP":               func(r *row) { r.vip = l.at(ipv4(), portL2).vip(6) },
		"no VIP":                  func(r *row) { r.vip = "" },
		"unknown VIP":             func(r *row) { r.vip = "unknown" },
		"other backend":           func(r *row) { r.backend = l.at(ipv4(), portL2).key() },
		"no backend":              func(r *row) { r.backend = BackendKey{} },
		"other size":              func(r *row) { r.size++ },
		"not an opener":           func(r *row) { r.opener = false },
	} {
		r := good
		spoil(&r)
		if l.check(r) == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// TestWellFormedNotices is the negative control of the look that gopacket takes.
func TestWellFormedNotices(t *testing.T) {
	for _, f := range families() {
		p := f.packet(tcp{from: 1, to: 2, flags: flagSYN, data: text(5)})
		p.outer = &tunnel{f.balancer, f.host(1, 1)}
		frame := p.bytes()
		if err := wellFormed(frame); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		inner := len(frame) - len(p.ip())
		for name, bad := range map[string][]byte{
			"data":         set(frame, len(frame)-1, frame[len(frame)-1]^1),
			"ports":        set(frame, len(frame)-5-headerTCP, 0xee),
			"inner source": set(frame, inner+15, frame[inner+15]^1),
			"shorter":      frame[:len(frame)-1],
		} {
			if wellFormed(bad) == nil {
				t.Errorf("%s: %s: not noticed", f.name, name)
			}
		}
	}
}

// otherGUEPort is a port for GUE other than its own, known to wellFormed.
const otherGUEPort = 16080

// insideGUE is a frame with what a UDP datagram carries, if that is GUE.
func insideGUE(l gopacket.Layer) []byte {
	u, ok := l.(*layers.UDP)
	if !ok || u.DstPort != DefaultGUEPort && u.DstPort != otherGUEPort {
		return nil
	}
	etherType := map[string]uint16{"\x00\x04\x00\x00": etherIPv4, "\x00\x29\x00\x00": etherIPv6}[string(u.Payload[:headerGUE-headerUDP])]
	return slices.Concat(make([]byte, 12), binary.BigEndian.AppendUint16(nil, etherType), u.Payload[headerGUE-headerUDP:])
}

// wellFormed decodes a frame with a library that knows nothing of ours, and has
// it recompute every length and checksum.
func wellFormed(frame []byte) error {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if fail := p.ErrorLayer(); fail != nil {
		return fmt.Errorf("gopacket: %w\n%s", fail.Error(), dump(frame))
	}
	var errs []error
	if p.Metadata().Truncated {
		errs = append(errs, errors.New("gopacket: the frame is truncated"))
	}
	var network gopacket.NetworkLayer
	for _, layer := range p.Layers() {
		switch l := layer.(type) {
		case gopacket.NetworkLayer:
			network = l
		case interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}:
			errs = append(errs, l.SetNetworkLayerForChecksum(network))
		}
		if inside := insideGUE(layer); inside != nil {
			errs = append(errs, wellFormed(inside))
		}
		if summed, ok := layer.(gopacket.LayerWithChecksum); ok {
			err, found := summed.VerifyChecksum()
			errs = append(errs, err)
			if !found.Valid {
				errs = append(errs, fmt.Errorf("gopacket: %v: checksum %#x, want %#x", layer.LayerType(), found.Actual, found.Correct))
			}
		}
	}
	return errors.Join(errs...)
}

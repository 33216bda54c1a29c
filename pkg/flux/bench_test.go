package flux

import "testing"

// BenchmarkMove writes every slot of a large table, from one owner to the next.
func BenchmarkMove(b *testing.B) {
	const slots, owners = 655373, 100
	t := NewTable(slots)
	turn := uint32(0)
	for b.Loop() {
		for slot := range uint32(slots) {
			t.Move(slot, First+(slot+turn)%owners, Tick(turn))
		}
		turn++
	}
	b.ReportMetric(slots*float64(b.N)/b.Elapsed().Seconds(), "slots/s")
}

package lab

import (
	"bytes"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/quiclb"
)

// TestRoutableIDs are all different, and all name the server.
func TestRoutableIDs(t *testing.T) {
	serverID := []byte{0xc4, 0x60, 0x5e}
	ids, err := newRoutableIDs(2, serverID)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 1000 {
		id, err := ids.GenerateConnectionID()
		if err != nil || id.Len() != ids.ConnectionIDLen() {
			t.Fatalf("%s, %v; want %d octets", id, err, ids.ConnectionIDLen())
		}
		config := quiclb.Config{ID: 2, ServerIDLength: 3, NonceLength: nonceLength}
		if got, _, err := config.Decode(id.Bytes()); err != nil || !bytes.Equal(got, serverID) {
			t.Fatalf("%s names server %x, %v", id, got, err)
		}
		seen[id.String()] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 connection IDs are different", len(seen))
	}
	if _, err := newRoutableIDs(quiclb.UnroutableConfigID, serverID); err == nil {
		t.Error("connection IDs of the config that means unroutable")
	}
}

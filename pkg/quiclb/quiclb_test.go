package quiclb_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/quiclb"
)

// TestDraftVectors are those of draft-ietf-quic-load-balancers-21, appendix B.1,
// "Unencrypted CIDs", and others made by its rules.
func TestDraftVectors(t *testing.T) {
	for _, v := range []struct {
		name                 string
		config               uint8
		serverID, nonce, cid string
	}{
		{"B.1, first", 0, "c4605e", "4504cc4f", "07c4605e4504cc4f"},
		// The second one is printed as "1 350d28b420 3487d970b
		// 20a350d28b4203487d970b": half an octet is missing from the nonce, and
		// the connection ID is not what the rules make of either. This is, with
		// the missing digit filled in.
		{"B.1, second, mended", 1, "350d28b420", "3487d9700b", "2a350d28b4203487d9700b"},
		{"the shortest", 6, "01", "02030405", "c50102030405"},
		{"the longest server ID", 5, "000102030405060708090a0b0c0d0e", "ffffffff", "b3000102030405060708090a0b0c0d0effffffff"},
		{"the longest nonce", 2, "aa", "000102030405060708090a0b0c0d0e0f1011", "53aa000102030405060708090a0b0c0d0e0f1011"},
	} {
		t.Run(v.name, func(t *testing.T) {
			serverID, nonce, cid := octets(t, v.serverID), octets(t, v.nonce), octets(t, v.cid)
			c := quiclb.Config{ID: v.config, ServerIDLength: len(serverID), NonceLength: len(nonce)}
			if got, err := c.Encode(serverID, nonce); err != nil || !bytes.Equal(got, cid) {
				t.Errorf("encoded: %x, %v, want %x", got, err, cid)
			}
			decodes(t, c, cid, serverID, nonce)
			if quiclb.SelfLength(cid[0]) != len(cid)-1 {
				t.Errorf("%x describes its length as %d", cid, quiclb.SelfLength(cid[0]))
			}
			// Random bits in place of the length, and octets of the server's own.
			for low := range byte(32) {
				other := append([]byte{cid[0]&0xe0 | low}, cid[1:]...)
				decodes(t, c, append(other, 0xff, low), serverID, nonce)
			}
		})
	}
}

// TestFirstOctet knows those of the encrypted vectors too, appendix B.2, for what
// is encrypted begins after it. The last one is printed as 12, which would be
// config 0.
func TestFirstOctet(t *testing.T) {
	for _, v := range []struct {
		first, config byte
		length        int
	}{
		{0x07, 0, 7}, {0x2f, 1, 15}, {0x50, 2, 16}, {0x72, 3, 18},
		{0xe0, quiclb.UnroutableConfigID, 0}, {0xff, quiclb.UnroutableConfigID, 31},
	} {
		if config, length := quiclb.ConfigID(v.first), quiclb.SelfLength(v.first); config != v.config || length != v.length {
			t.Errorf("first octet %02x is of config %d and length %d, want %d and %d", v.first, config, length, v.config, v.length)
		}
	}
}

func TestUnroutable(t *testing.T) {
	c := quiclb.Config{ID: 0, ServerIDLength: 3, NonceLength: 4}
	for name, cid := range map[string]string{
		"empty":                       "",
		"without a server ID":         "07",
		"one octet short":             "07c4605e4504cc",
		"of another config":           "27c4605e4504cc4f",
		"without config":              "e7c4605e4504cc4f",
		"without config, random bits": "ffc4605e4504cc4f",
	} {
		if serverID, _, err := c.Decode(octets(t, cid)); !errors.Is(err, quiclb.ErrUnroutable) {
			t.Errorf("%s: %s has server ID %x, %v; want it unroutable", name, cid, serverID, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for id := range uint8(quiclb.MaxConfigID + 1) {
		for s := quiclb.MinServerIDLength; s <= quiclb.MaxServerIDLength; s++ {
			for n := quiclb.MinNonceLength; s+n <= quiclb.MaxBlockLength; n++ {
				c := quiclb.Config{ID: id, ServerIDLength: s, NonceLength: n}
				serverID, nonce := make([]byte, s), make([]byte, n)
				for i := range serverID {
					serverID[i] = byte(random.Uint32())
				}
				for i := range nonce {
					nonce[i] = byte(random.Uint32())
				}
				cid, err := c.Encode(serverID, nonce)
				if err != nil || len(cid) != c.Length() {
					t.Fatalf("%+v: %x, %v", c, cid, err)
				}
				decodes(t, c, cid, serverID, nonce)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, v := range []struct {
		config quiclb.Config
		says   string
	}{
		{quiclb.Config{ID: 7, ServerIDLength: 3, NonceLength: 4}, "unroutable"},
		{quiclb.Config{ID: 8, ServerIDLength: 3, NonceLength: 4}, "want 0 to 6"},
		{quiclb.Config{ServerIDLength: 0, NonceLength: 4}, "want 1 to 15"},
		{quiclb.Config{ServerIDLength: 16, NonceLength: 3}, "want 1 to 15"},
		{quiclb.Config{ServerIDLength: 3, NonceLength: 3}, "want 4 to 18"},
		{quiclb.Config{ServerIDLength: 1, NonceLength: 19}, "want 4 to 18"},
		{quiclb.Config{ServerIDLength: 15, NonceLength: 5}, "at most 19"},
	} {
		serverID, nonce := make([]byte, v.config.ServerIDLength), make([]byte, v.config.NonceLength)
		if _, err := v.config.Encode(serverID, nonce); err == nil || !strings.Contains(err.Error(), v.says) {
			t.Errorf("%+v: encoding says %v, want %q", v.config, err, v.says)
		}
		if _, _, err := v.config.Decode(make([]byte, 20)); err == nil || errors.Is(err, quiclb.ErrUnroutable) {
			t.Errorf("%+v: decoding says %v, want that the config is wrong", v.config, err)
		}
	}
	c := quiclb.Config{ServerIDLength: 3, NonceLength: 4}
	for _, length := range []int{2, 4} {
		if _, err := c.Encode(make([]byte, length), make([]byte, 4)); err == nil || !strings.Contains(err.Error(), "wants 3") {
			t.Errorf("a server ID of %d octets: %v", length, err)
		}
	}
	if _, err := c.Encode(make([]byte, 3), make([]byte, 5)); err == nil || !strings.Contains(err.Error(), "wants 4") {
		t.Errorf("a nonce of 5 octets: %v", err)
	}
}

// decodes wants both parts of a connection ID back.
func decodes(t *testing.T, c quiclb.Config, cid, serverID, nonce []byte) {
	t.Helper()
	gotID, gotNonce, err := c.Decode(cid)
	if err != nil || !bytes.Equal(gotID, serverID) || !bytes.Equal(gotNonce, nonce) {
		t.Errorf("%x decoded: server ID %x, nonce %x, %v; want %x, %x", cid, gotID, gotNonce, err, serverID, nonce)
	}
}

func octets(t *testing.T, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

package quiclb

import (
	"errors"
	"fmt"
)

// Bounds of the draft's section 5, in octets where they are lengths. The sum of
// server ID and nonce is bounded because a connection ID of QUIC version 1 has at
// most 20 octets.
const (
	// MaxConfigID is the last of the configurations that can be told apart.
	MaxConfigID = 6
	// UnroutableConfigID marks connection IDs that name no server (section 3.2).
	UnroutableConfigID = 7

	MinServerIDLength = 1
	MaxServerIDLength = 15
	MinNonceLength    = 4
	MaxNonceLength    = 18
	MaxBlockLength    = 19 // server ID and nonce
)

const (
	// configShift is where the config ID begins in the first octet.
	configShift = 5
	lengthMask  = 1<<configShift - 1
)

// ErrUnroutable says that a connection ID names no server: a client or a server
// without a configuration chose it. A load balancer decides otherwise then.
var ErrUnroutable = errors.New("unroutable connection ID")

// Config is what servers and load balancers have to agree on.
type Config struct {
	// ID tells configurations apart that are in use at the same time, 0 to 6.
	ID uint8
	// ServerIDLength is 1 to 15 octets, NonceLength 4 to 18, both at most 19.
	ServerIDLength, NonceLength int
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	switch {
	case c.ID == UnroutableConfigID:
		return fmt.Errorf("QUIC-LB config ID %d means \"unroutable\": want 0 to %d", c.ID, MaxConfigID)
	case c.ID > MaxConfigID:
		return fmt.Errorf("QUIC-LB config ID %d: want 0 to %d", c.ID, MaxConfigID)
	case c.ServerIDLength < MinServerIDLength || c.ServerIDLength > MaxServerIDLength:
		return fmt.Errorf("a QUIC-LB server ID of %d octets: want %d to %d", c.ServerIDLength, MinServerIDLength, MaxServerIDLength)
	case c.NonceLength < MinNonceLength || c.NonceLength > MaxNonceLength:
		return fmt.Errorf("a QUIC-LB nonce of %d octets: want %d to %d", c.NonceLength, MinNonceLength, MaxNonceLength)
	case c.ServerIDLength+c.NonceLength > MaxBlockLength:
		return fmt.Errorf("a QUIC-LB server ID of %d octets and a nonce of %d are %d together: want at most %d",
			c.ServerIDLength, c.NonceLength, c.ServerIDLength+c.NonceLength, MaxBlockLength)
	}
	return nil
}

// Length is how many octets a connection ID has, 6 to 20.
func (c Config) Length() int { return 1 + c.ServerIDLength + c.NonceLength }

// Encode makes the connection ID of a server, which describes its own length. The
// nonce must not have been used before with that server ID, and must not let an
// observer relate two connection IDs: random octets will do.
func (c Config) Encode(serverID, nonce []byte) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if len(serverID) != c.ServerIDLength {
		return nil, fmt.Errorf("server ID %x has %d octets: QUIC-LB config %d wants %d", serverID, len(serverID), c.ID, c.ServerIDLength)
	}
	if len(nonce) != c.NonceLength {
		return nil, fmt.Errorf("a nonce of %d octets: QUIC-LB config %d wants %d", len(nonce), c.ID, c.NonceLength)
	}
	cid := make([]byte, 0, c.Length())
	cid = append(cid, c.ID<<configShift|uint8(len(serverID)+len(nonce)))
	cid = append(cid, serverID...)
	return append(cid, nonce...), nil
}

// Decode returns the server ID and the nonce of a connection ID, as parts of it.
// What follows them is the server's own. The error is [ErrUnroutable] if the
// connection ID is not of this configuration or too short for it.
func (c Config) Decode(cid []byte) (serverID, nonce []byte, err error) {
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	switch {
	case len(cid) < c.Length():
		return nil, nil, fmt.Errorf("%w: %x has %d octets, config %d takes %d", ErrUnroutable, cid, len(cid), c.ID, c.Length())
	case ConfigID(cid[0]) != c.ID:
		return nil, nil, fmt.Errorf("%w: %x is of config %d, want %d", ErrUnroutable, cid, ConfigID(cid[0]), c.ID)
	}
	end := 1 + c.ServerIDLength
	return cid[1:end:end], cid[end:c.Length():c.Length()], nil
}

// ConfigID is the configuration that the first octet of a connection ID names;
// [UnroutableConfigID] is none.
func ConfigID(first byte) uint8 { return first >> configShift }

// SelfLength is how many octets a connection ID has after its first one, if its
// server tells; else it means nothing.
func SelfLength(first byte) int { return int(first & lengthMask) }

package model

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of QUIC-LB server IDs (draft-ietf-quic-load-balancers, section 3).
const (
	MaxServerIDConfig = 6
	MaxServerIDLength = 15
)

// ServerID is what the connection IDs that a backend issues name it by, after
// draft-ietf-quic-load-balancers, plaintext.
type ServerID struct {
	// Config is the configuration that the ID belongs to, 0 to
	// [MaxServerIDConfig]: the upper three bits of a connection ID.
	Config uint8
	// ID is 1 to [MaxServerIDLength] bytes, in a pool for one configuration
	// always the same number.
	ID string
}

// String renders "0:c4605e".
func (id ServerID) String() string {
	return fmt.Sprintf("%d:%s", id.Config, hex.EncodeToString([]byte(id.ID)))
}

// ParseServerID is the inverse of [ServerID.String].
func ParseServerID(s string) (ServerID, error) {
	config, id, ok := strings.Cut(s, ":")
	n, errConfig := strconv.ParseUint(config, 10, 8)
	raw, errID := hex.DecodeString(id)
	if !ok || errConfig != nil || errID != nil || n > MaxServerIDConfig || len(raw) < 1 || len(raw) > MaxServerIDLength {
		return ServerID{}, fmt.Errorf("%q is not a server ID: want the configuration, 0 to %d, and 1 to %d bytes in hexadecimal digits, such as 0:c4605e", s, MaxServerIDConfig, MaxServerIDLength)
	}
	return ServerID{uint8(n), string(raw)}, nil
}

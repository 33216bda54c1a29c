// Package quiclb encodes the number of a server in the connection IDs that the
// server issues, and reads it back, so that a load balancer finds a connection's
// server wherever its client has moved to: the unencrypted form of
// draft-ietf-quic-load-balancers-21, "QUIC-LB: Generating Routable QUIC
// Connection IDs". It imports the standard library only.
//
//	 first octet
//	+-+-+-+-+-+-+-+-+------------------+------------------+-------------+
//	|config | length |    server ID     |      nonce       | the server's|
//	|  (3)  |  (5)   | (1 to 15 octets) | (4 to 18 octets) |     own     |
//	+-+-+-+-+-+-+-+-+------------------+------------------+-------------+
//
// The length is that of what follows the first octet. A server need not say it,
// and may have random bits in its place; a load balancer does not look at it.
package quiclb

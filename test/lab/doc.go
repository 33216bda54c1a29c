// Package lab builds small networks of namespaces, with a client, a router, a
// switch, a balancer and backends in them, for the end-to-end tests and for the
// demonstration. Everything is real: veth pairs, a bridge, the kernel's
// forwarding, nginx, QUIC clients that move. Nothing outside of the lab's own
// namespaces is configured.
//
// One interface at the balancer (a "one-armed" balancer):
//
//	client ──── router ──── switch ──┬── balancer (eth0)
//	                                 ├── backend1
//	                                 ├── backend2
//	                                 └── backend3
//
// Two interfaces:
//
//	client ──── router ──────────────── balancer (eth0)
//	               │                        │ (eth1)
//	               └──────── switch ────────┘
//	                            ├── backend1 ...
//
// One more router, and a link whose MTU is chosen, if there is to be transit:
//
//	client ──── access ──── router ──── ...
//
// The router sends what is for a VIP to the balancer; backends send their
// answers to the router, past the balancer (direct server return). Or else the
// balancer is the backends' gateway, or they know nothing but their own network
// and answer to addresses that the balancer has for that, see [Return].
//
// Addresses, where n is the number of a backend from 1:
//
//	client          192.0.2.2        2001:db8:1::2     and, to send from, any of
//	                203.0.113.0/24   2001:db8:113::/64
//	router          192.0.2.1        2001:db8:1::1     to the client, or else of access
//	                10.0.2.1         2001:db8:4::1     to access
//	                10.0.0.1         2001:db8:2::1     to the switch
//	                10.0.1.1         2001:db8:3::1     to the balancer (two interfaces)
//	access          10.0.2.2         2001:db8:4::2     to the router
//	balancer        10.0.0.2         2001:db8:2::2     at the switch
//	                10.0.1.2         2001:db8:3::2     at the router (two interfaces)
//	                10.0.0.248/30    2001:db8:2::248/126  at the switch, to answer to (SNAT)
//	backends        10.0.0.(10+n)    2001:db8:2::(10+n)
//	VIPs            198.51.100.0/24  2001:db8:100::/64
//
// The hosts are ordinary named namespaces, such as "steelyard-client", for
// `ip netns exec`. Building a lab needs root, iproute2 and ethtool, and a kernel
// with veth and bridge.
package lab

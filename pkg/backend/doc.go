// Package backend makes a host a backend of Steelyard balancers for as long as
// [Run] runs. It sets what direct server return needs so that the host does not
// answer ARP for the VIPs, puts their addresses on the loopback interface, and
// attaches a program that takes off the outer headers of what balancers send by
// dsr-ipip and dsr-gue. All that it changes is said, and undone at the end.
//
// # What a kill leaves
//
// The kernel detaches the program when the process dies, however it dies. The
// addresses and the ARP settings stay. The next Run finds them as they should be,
// serves, and leaves them at its end, as it does with all that was there before
// it; it says so. 'ip address del VIP dev lo' takes an address away.
//
// Two of them in one network namespace do not know of each other: one Run is to
// have all VIPs and all interfaces.
//
// # What it does not change
//
// rp_filter: requests arrive on the interface that the balancer reaches. If it
// filters strictly and the way back to a client leaves by another, the kernel
// drops that client's packets. Whether strict filtering may be given up is a
// matter of the site's security, so Run warns and leaves it alone.
//
// Routes: clients' packets fit through the tunnel if the routes to them announce
// smaller segments (advmss). They carry everything else, too, so Run tells the value.
//
// IPv6 needs no setting against neighbour discovery: an interface answers
// solicitations for its own addresses only.
package backend

//go:generate go tool bpf2go -cc clang-19 -go-package backend -target bpfel -cflags "-O2 -mcpu=v3 -nostdinc -I../../bpf/headers -Wall -Wextra -Werror" -type decap_reason -type address -type prefix decap ../../bpf/decap.bpf.c

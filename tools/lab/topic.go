package main

import (
	"fmt"
	"net/netip"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// topic is what a demonstration is about: forwarding modes, and the network that they need.
type topic struct {
	returns  lab.Return
	services []service
	// port is where web servers listen.
	port uint16
	// said of what backends need, of the services, and of who backends think asks.
	backends, added, seen string
	// config is what the daemon needs beside what it always does.
	config string
}

// modes are the names of all topics.
const modes = "dsr, nat or fullnat"

// topicOf finds a topic by its name.
func topicOf(name string) (topic, bool) {
	vip4, vip6 := lab.VIP(10)
	v4 := func(h *lab.Host) netip.Addr { return h.V4 }
	v6 := func(h *lab.Host) netip.Addr { return h.V6 }
	const parts = "One address of each family on the same backends, which get 1, 2, 3 ... parts of\nthe traffic. "
	switch name {
	case "dsr":
		return topic{
			returns: lab.ReturnDirect, port: 80,
			services: []service{{"web4", "web4", "dsr-l2", vip4, v4}, {"web6", "web6", "dsr-ipip", vip6, v6}},
			backends: "Backends answer clients directly, so they need the service's addresses too; and\nwhat arrives encapsulated they must unpack. `steelyard backend` does both.",
			added:    parts + "IPv4 is forwarded by MAC address (dsr-l2), IPv6 encapsulated (dsr-ipip).",
			seen:     "The backend sees the client's own address:",
		}, true
	case "nat":
		return topic{
			returns: lab.ReturnGateway, port: 8080,
			services: []service{{"web4", "web4", "nat", vip4, v4}, {"web6", "web6", "nat", vip6, v6}},
			backends: "The balancer is the gateway of the backends, and forwards. Nothing else is needed:\nthey listen on a port of their own and know nothing of the service's addresses.",
			added:    parts + "The balancer translates port 80 to 8080, and answers back (nat).",
			seen:     "The backend sees the client's own address:",
		}, true
	case "fullnat":
		snat4, _ := lab.SNAT()
		return topic{
			returns: lab.ReturnSNAT, port: 8080,
			// IPv6 comes to backends that have nothing of it.
			services: []service{{"web4", "web4", "fullnat", vip4, v4}, {"web6", "web6", "fullnat", vip6, v4}},
			backends: "Backends are left as they are. They know no way to clients, and need none: they\nanswer to addresses that the balancer has in their network.",
			added:    parts + "The balancer translates source and destination, and IPv6 to\nIPv4 (fullnat).",
			seen:     "The backend sees an address of the balancer:",
			config:   fmt.Sprintf("nat:\n  source_ipv4: %s\n", snat4),
		}, true
	}
	return topic{}, false
}

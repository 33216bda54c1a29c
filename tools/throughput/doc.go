// Command throughput measures what goes through Steelyard in a second, beside what goes
// through others in the same place, and through nothing. It runs as root, in network
// namespaces of its own:
//
//	go run ./tools/throughput [-quick] [-steelyard FILE] [-json FILE] [-page FILE]
//
// Packets: the kernel makes frames (BPF_PROG_TEST_RUN with live frames) and sends them
// through a pair of veth interfaces. The program under test is on the other end, in the
// driver, and sends them back, where they are counted. It is loaded as in tools/bench.
//
// HTTP: wrk asks nginx for pages in a lab of namespaces, through the steelyard that make
// build made, through proxies in its place, and through no balancer.
//
// All take turns, in rounds; figures are medians over the rounds. Each turn checks itself:
// a program that did not see the packets, or an answer that is not one, yields no figure.
package main

//go:generate go tool bpf2go -cc clang-19 -go-package main -target bpfel -cflags "-O2 -mcpu=v3 -nostdinc -I../bench/subject -I../../bpf -I../../bpf/headers -Wall -Wextra -Werror" throughput throughput.bpf.c

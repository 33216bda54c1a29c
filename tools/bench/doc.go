// Command bench measures what the packet path costs, in nanoseconds per packet
// on one core, and prints it beside what the measuring itself costs, and what a
// load balancer of the usual shape does on the same packets. It runs as root, in
// a network namespace of its own:
//
//	go run ./tools/bench [-quick] [-cases REGEXP] [-flows N,N] [-rounds N] [-packets N] [-cpu N] [-json FILE] [-page FILE]
//	go run ./tools/bench -check [-cases REGEXP]
//
// The program is the one that the daemon loads, with the maps that the daemon
// fills; the kernel runs it on frames made in its memory (BPF_PROG_TEST_RUN). A
// small program of the benchmark's own makes the frames, each another flow's in
// turn, and calls the program under test; see bench.bpf.c. Without it, the same
// flow would be measured again and again, and a program is never as fast as on
// one flow.
//
// In each round all programs take their turn, so that a disturbance of the
// machine meets them alike; the figures are medians over the rounds. After each
// turn the verdict and the program's own counters are checked, so that a wrong
// set-up fails and does not look fast.
//
// What a packet executes is counted apart from that, by programs that are the same but
// for what counts; see package execution.
//
// With -check it measures no time, but compares what does not depend on the clock with
// limits: the sizes of the programs, and what they execute for packets of some cases.
package main

//go:generate go tool bpf2go -cc clang-19 -go-package main -target bpfel -cflags "-O2 -mcpu=v3 -nostdinc -Isubject -I../../bpf -I../../bpf/headers -Wall -Wextra -Werror" bench bench.bpf.c

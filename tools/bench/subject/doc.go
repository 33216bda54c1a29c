// Package subject has the load balancers that are measured, loaded with real state of one
// case, and the frames that the case's packets are: Steelyard's program as the daemon loads
// it, with the maps that the daemon fills, and the classic program that it is compared with.
// A generator makes the frames, a program that includes generate.h.
package subject

//go:generate go tool bpf2go -cc clang-19 -go-package subject -target bpfel -cflags "-O2 -mcpu=v3 -nostdinc -I../../../bpf -I../../../bpf/headers -Wall -Wextra -Werror" classic classic.bpf.c

// Command throughput
package main

//go:generate go tool bpf2go -cc clang-19 -go-package main -target bpfel -cflags "-O2 -mcpu=v3 -nostdinc -I../bench/subject -I../../bpf -I../../bpf/headers -Wall -Wextra -Werror" throughput throughput.bpf.c

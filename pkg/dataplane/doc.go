// Package dataplane loads the packet path into the kernel, attaches it, and is
// the sole owner of its maps and of the numbers in them: callers speak of VIPs,
// pools and backends by name, this package knows which index each has.
//
// A [Plane] is not safe for concurrent use; one goroutine owns it.
package dataplane

//go:generate go tool bpf2go -cc clang-19 -go-package dataplane -target bpfel -cflags "-O2 -mcpu=v3 -nostdinc -I../../bpf/headers -Wall -Wextra -Werror" -type reason -type owner -type room -type mode -type vip_flag -type ability -type flow_flag -type flow_event -type flow -type address -type affinity -type fragment_flag -type port_range -type vip_entry -type vip_table -type nat_endpoint -type nat_flag -type nat_timeout -type part -type splice_flag -type translation -type list_node -type list_answer -type limited -type limit -type source_bucket lb ../../bpf/lb.bpf.c

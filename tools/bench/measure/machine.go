package measure

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what was measured on.
type Machine struct {
	Kernel, CPU string
	// CPUs are those that the machine has, PinnedTo is the number of that which did the work.
	CPUs, PinnedTo int
}

// ThisMachine describes the machine, as far as it tells, and the CPU that the work was done on.
func ThisMachine(cpu int) Machine {
	m := Machine{CPU: "unknown CPU", Kernel: "unknown", CPUs: runtime.NumCPU(), PinnedTo: cpu}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// CPUs are the numbers of those that this thread may run on.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("ask for the CPUs to run on: %w", err)
	}
	var cpus []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// Pin keeps this thread on one CPU and returns which; a negative one is the last that is
// allowed.
func Pin(cpu int) (int, error) {
	if cpu < 0 {
		cpus, err := CPUs()
		if err != nil {
			return 0, err
		}
		cpu = cpus[len(cpus)-1]
	}
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("run on CPU %d: %w; choose another with -cpu", cpu, err)
	}
	return cpu, nil
}

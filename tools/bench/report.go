package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// report is everything that was measured. Times are in nanoseconds per packet.
type report struct {
	Machine    machineInfo   `json:"machine"`
	Rounds     int           `json:"rounds"`
	Packets    uint32        `json:"packets_per_turn"`
	FrameBytes int           `json:"frame_bytes"`
	Programs   []programInfo `json:"programs"`
	Rows       []row         `json:"rows"`
}

type machineInfo struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	// PinnedTo is the number of the CPU that did the work.
	PinnedTo int `json:"pinned_to"`
}

// programInfo says what a program's figures include and, if it is measured, what
// the kernel made of it.
type programInfo struct {
	Name     string `json:"name"`
	Measured bool   `json:"measured"`
	// TailCall says that the figures include the call from the generator.
	TailCall             bool   `json:"tail_call_included"`
	VerifiedInstructions uint32 `json:"verified_instructions,omitempty"`
	BytecodeBytes        int    `json:"bytecode_bytes,omitempty"`
	MachineCodeBytes     uint32 `json:"machine_code_bytes,omitempty"`
}

// row is one case with one number of flows.
type row struct {
	Case  string `json:"case"`
	Flows uint64 `json:"flows"`
	// Results by name of program, all with the generator's cost in them.
	Results map[string]spread `json:"results"`
}

// net is what a measured program costs by itself: without generator and tail call.
func (r *row) net(program string) float64 {
	return r.Results[program].Median - r.Results[nameTail].Median
}

// overFloor is what is left of net without the writing that every program must do.
// It reports false if the case has no floor.
func (r *row) overFloor(program string) (float64, bool) {
	floor, ok := r.Results[nameFloor]
	return r.net(program) - (floor.Median - r.Results[nameGenerator].Median), ok
}

// print writes the report as a table.
func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "Nanoseconds per packet on one core: median of %d rounds of %d packets (least - most).\n", r.Rounds, r.Packets)
	fmt.Fprintf(out, "%s, Linux %s, CPU %d.\n", r.Machine.CPU, r.Machine.Kernel, r.Machine.PinnedTo)
	for _, p := range r.Programs {
		if p.Measured {
			fmt.Fprintf(out, "%s: %d instructions verified, %d bytes of bytecode, %d bytes of machine code.\n",
				p.Name, p.VerifiedInstructions, p.BytecodeBytes, p.MachineCodeBytes)
		}
	}
	fmt.Fprintln(out)
	if err := r.printRows(out); err != nil {
		return err
	}
	_, err := io.WriteString(out, `
generator   the kernel's loop and the making of the frame; included in the three next to it
floor       generator, and writing the bytes that the mode requires, with constants
tail        generator, and a tail call of a program that only returns
steelyard   generator, tail call, and the packet path
net         the packet path alone: steelyard less tail
over floor  what deciding and counting cost: net, less what floor adds to generator
`)
	return err
}

func (r *report) printRows(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	heads := []string{"case", "flows"}
	for _, p := range r.Programs {
		heads = append(heads, p.Name)
		if p.Measured {
			heads = append(heads, "net", "over floor")
		}
	}
	fmt.Fprintln(table, strings.Join(heads, "\t"))
	for i := range r.Rows {
		fmt.Fprintln(table, strings.Join(r.cells(&r.Rows[i]), "\t"))
	}
	return table.Flush()
}

func (r *report) cells(row *row) []string {
	cells := []string{row.Case, fmt.Sprint(row.Flows)}
	for _, p := range r.Programs {
		result, ok := row.Results[p.Name]
		if !ok {
			cells = append(cells, "-")
			continue
		}
		cells = append(cells, fmt.Sprintf("%.1f (%.1f - %.1f)", result.Median, result.Min, result.Max))
		if !p.Measured {
			continue
		}
		cells = append(cells, fmt.Sprintf("%.1f", row.net(p.Name)))
		if over, ok := row.overFloor(p.Name); ok {
			cells = append(cells, fmt.Sprintf("%.1f", over))
		} else {
			cells = append(cells, "-")
		}
	}
	return cells
}

// save writes the report as JSON.
func (r *report) save(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// machine describes the machine, as far as it tells.
func machine(cpu int) machineInfo {
	m := machineInfo{CPU: "unknown CPU", Kernel: "unknown", PinnedTo: cpu}
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

package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// clockTick is the unit of times in /proc: the kernel's USER_HZ, 100 everywhere.
const clockTick = time.Second / 100

// processorTime is what a process has used of all processors.
func processorTime(p *lab.Process) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, is field 2 and may have spaces; fields 14 and 15 are
	// the times in user and kernel mode.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var sum time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", p.PID(), err)
		}
		sum += time.Duration(ticks) * clockTick
	}
	return sum, nil
}

// ownMemory is the memory that a process has for itself, in bytes: what it shares with
// the kernel, such as maps, is not in it.
func ownMemory(p *lab.Process) (uint64, error) {
	return field(fmt.Sprintf("/proc/%d/status", p.PID()), "RssAnon:", 1024)
}

// mapMemory is what the maps take that a process has open, in bytes.
func mapMemory(p *lab.Process) (uint64, error) {
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", p.PID()))
	if err != nil {
		return 0, err
	}
	maps := map[uint64]uint64{} // by their number: one may be open twice
	for _, d := range descriptors {
		number, err := field(d, "map_id:", 1)
		if err != nil {
			continue // no map, or closed meanwhile
		}
		if maps[number], err = field(d, "memlock:", 1); err != nil {
			return 0, err
		}
	}
	var sum uint64
	for _, bytes := range maps {
		sum += bytes
	}
	return sum, nil
}

// field is the number behind a name in a file of /proc, times a unit.
func field(file, name string, unit uint64) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			n, err := strconv.ParseUint(words[1], 10, 64)
			return n * unit, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

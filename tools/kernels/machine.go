package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

// machine is a virtual machine that runs a plan from an initramfs.
type machine struct {
	kernel    kernel
	initramfs string
	jobs      []plan.Job
	// dir takes the files console.log (what the kernel says) and output.log
	// (what jobs print).
	dir string
	// say is called for each line that jobs print, and ended for each job's end.
	say   func(line string)
	ended func(plan.Event)
	// timeout is for all of it, from the start of the emulator.
	timeout time.Duration
}

const (
	// consoleTail is how much of what the kernel said is shown in errors, in bytes.
	consoleTail = 3000
	memory      = "2048M"
	processors  = "2"
)

// run boots the machine and waits until it is off. It returns nil only if the
// machine said that every job passed.
func (m *machine) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, fmt.Errorf("the machine was still running after %v", m.timeout))
	defer cancel()
	console := filepath.Join(m.dir, "console.log")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(console)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	v := newVerdict(m.jobs)
	read := m.follow(stdout, v)
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err = errors.Join(err, read, v.err()); err == nil {
		return nil
	}
	said, unread := os.ReadFile(console)
	if unread != nil {
		said = []byte(unread.Error())
	}
	if strings.Contains(string(said), "Kernel panic") {
		err = fmt.Errorf("the kernel panicked: %w", err)
	}
	return fmt.Errorf("%w\n%sthe kernel's last messages (all: %s):\n%s", err, stderr.String(), console, said[max(0, len(said)-consoleTail):])
}

func (m *machine) arguments(console string) []string {
	return []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", processors, "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:" + console, "-serial", "stdio",
		"-kernel", m.kernel.image(), "-initrd", m.initramfs,
		// Any fault ends the machine. Defences against what its own tests might
		// do would only cost time, and so would waiting for quiet processors.
		"-append", "console=ttyS0 panic=-1 oops=panic mitigations=off nopti nokaslr rcupdate.rcu_expedited=1",
	}
}

// follow reads what the machine prints until it is off.
func (m *machine) follow(r io.Reader, v *verdict) error {
	log, err := os.Create(filepath.Join(m.dir, "output.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	lines := bufio.NewReader(r)
	for {
		line, end := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if e, ok := plan.ParseEvent(line); ok {
			v.note(e)
			if e.Job != "" {
				m.ended(e)
			}
		} else if line != "" || end == nil {
			m.say(line)
		}
		if _, err := fmt.Fprintln(log, line); err != nil {
			return err
		}
		if end != nil {
			return nil // the emulator has closed its side: it tells how it ended
		}
	}
}

// verdict holds what a machine reported against what it was to do. Silence is a
// failure.
type verdict struct {
	jobs   []plan.Job
	events map[string]plan.Event
	last   *plan.Event
}

func newVerdict(jobs []plan.Job) *verdict {
	return &verdict{jobs: jobs, events: map[string]plan.Event{}}
}

func (v *verdict) note(e plan.Event) {
	if e.Job == "" {
		v.last = &e
		return
	}
	v.events[e.Job] = e
}

func (v *verdict) err() error {
	var errs []error
	for _, job := range v.jobs {
		if e, ok := v.events[job.Name]; !ok {
			errs = append(errs, fmt.Errorf("%s: no result", job.Name))
		} else if !e.Passed {
			errs = append(errs, fmt.Errorf("%s: %s", job.Name, strings.ReplaceAll(e.Why, "\n", "; ")))
		}
	}
	if v.last == nil {
		errs = append(errs, errors.New("the machine ended without its last line"))
	} else if !v.last.Passed && len(errs) == 0 {
		errs = append(errs, errors.New("the machine says that a job failed, and not which"))
	}
	if len(v.jobs) == 0 {
		errs = append(errs, errors.New("there was nothing to do"))
	}
	return errors.Join(errs...)
}

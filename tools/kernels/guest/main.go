// Command guest is the first process of a virtual machine of the kernel matrix:
// it loads modules, runs the jobs of its plan, reports, and powers the machine
// off. See tools/kernels, which starts it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the first process of a virtual machine; run tools/kernels instead")
		os.Exit(2)
	}
	// Without a last event the machine counts as failed, whatever went wrong.
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Println("guest: power off:", err)
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	out, err := os.OpenFile(plan.Output, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	text, err := os.ReadFile(plan.Path)
	if err != nil {
		return err
	}
	var p plan.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("%s: %w", plan.Path, err)
	}
	if err := settle(); err != nil {
		return err
	}
	for _, module := range p.Modules {
		if err := load(module); err != nil {
			return err
		}
	}
	last := plan.Event{Passed: true}
	for _, job := range p.Jobs {
		e := runJob(job, out)
		last.Passed = last.Passed && e.Passed
		if err := report(out, e); err != nil {
			return err
		}
	}
	return report(out, last)
}

func report(out *os.File, e plan.Event) error {
	line, err := e.Line()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, line)
	return err
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"bpf", "/sys/fs/bpf"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	return nil
}

// load loads a kernel module; one that is there already is fine.
func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(module), err)
	}
	return nil
}

// settle makes the machine an ordinary one, as far as tests can tell.
func settle() error {
	for name, value := range map[string]string{"PATH": "/bin", "HOME": "/root", "TMPDIR": "/tmp", plan.Guest: "1"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	// Tunnel modules give each namespace a device of their own; the lab wants the
	// first indices for its devices.
	if err := os.WriteFile("/proc/sys/net/core/fb_tunnels_only_for_init_net", []byte("1"), 0); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}

// runJob runs a job, prints what it prints, and judges it.
func runJob(job plan.Job, out *os.File) plan.Event {
	j := newJudge(out)
	cmd := exec.Command(filepath.Join(plan.Root, job.Program), arguments(job)...)
	cmd.Dir = filepath.Join(plan.Root, job.Dir)
	cmd.Stdout, cmd.Stderr = j, j
	// What a killed test leaves behind may hold its output open.
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	err := cmd.Run()
	e := plan.Event{Job: job.Name, Tests: len(j.passed), Took: time.Since(began).Round(time.Millisecond)}
	if err = errors.Join(err, j.verdict(job.Tests)); err != nil {
		e.Why = err.Error()
	}
	e.Passed = err == nil
	return e
}

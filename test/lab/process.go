package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopPatience is how long a process may take to end after SIGTERM.
	stopPatience = 10 * time.Second
	// pollEvery is how often a condition is looked at again.
	pollEvery = 10 * time.Millisecond
	// logTailBytes is how much of a log is shown in errors.
	logTailBytes = 4096
)

// Process is a program that runs on a host in the background. Its output goes
// to a file. It is in a session of its own: a Ctrl-C at the terminal does not
// reach it, and it outlives its parent unless it is stopped.
type Process struct {
	// Name says what it is, such as "nginx".
	Name string
	// LogPath is the file with its standard output and standard error.
	LogPath string

	host *Host
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid once done is closed
}

// Start starts a command on the host. The log file is named after the process
// and is continued by another process of that name. The lab stops what still
// runs when it is closed.
func (h *Host) Start(name, command string, args ...string) (*Process, error) {
	p := &Process{
		Name: name, LogPath: filepath.Join(h.Dir(), name+".log"),
		host: h, cmd: h.Command(command, args...), done: make(chan struct{}),
	}
	log, err := os.OpenFile(p.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p, err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.lab.mu.Lock()
	h.lab.processes = append(h.lab.processes, p)
	h.lab.mu.Unlock()
	return p, nil
}

func (p *Process) String() string { return p.Name + " on " + p.host.Name }

// Args is the command line as it was typed on the host, so to speak.
func (p *Process) Args() []string { return p.cmd.Args[enterArgs:] }

// PID is the process itself, not a wrapper: nsenter replaces itself by the command.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the process ended, nil if with exit status 0 or not at all yet.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p, err)
	}
	return nil
}

// Stop asks the process to end with SIGTERM and waits for it. One that has not
// ended after 10 seconds is killed, and that is an error. It is no error if the
// process ended before.
func (p *Process) Stop() error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopPatience):
	}
	return errors.Join(fmt.Errorf("%s ignored SIGTERM for %v and was killed", p, stopPatience), p.Kill())
}

// Kill ends the process at once, as a crash would, and waits for it.
func (p *Process) Kill() error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// LogTail returns the last few kilobytes of what the process said.
func (p *Process) LogTail() string {
	data, err := os.ReadFile(p.LogPath)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(data[max(0, len(data)-logTailBytes):]))
}

// WaitReady waits until ready returns nil. It fails when the context ends or
// the process does, and then quotes the log.
func (p *Process) WaitReady(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.done:
			cancel(fmt.Errorf("it ended: %v", p.err))
		case <-ctx.Done():
		}
	}()
	if err := WaitFor(ctx, p.String()+" is ready", ready); err != nil {
		return fmt.Errorf("%w\nits log ends:\n%s", err, p.LogTail())
	}
	return nil
}

// WaitFor waits until the condition returns nil. When the context ends first,
// the error says what was awaited, why the wait ended and what was last wrong.
func WaitFor(ctx context.Context, what string, condition func() error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w; last: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// endStrays ends every process that is in one of the lab's namespaces: what
// processes left behind, and what another process of ours started there. All of
// them are the lab's, because the namespaces are.
func (l *Lab) endStrays() error {
	// Once only: a second SIGTERM may mean "at once" to a daemon.
	pids, err := l.pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := l.signalStray(pid, unix.SIGTERM); err != nil {
			return err
		}
	}
	none := func() error {
		if pids, err = l.pids(); err != nil || len(pids) == 0 {
			return err
		}
		return fmt.Errorf("processes %v are left", pids)
	}
	if waited(none) == nil {
		return nil
	}
	return waited(func() error {
		for _, pid := range pids {
			if err := l.signalStray(pid, unix.SIGKILL); err != nil {
				return err
			}
		}
		return none()
	})
}

// waited waits for a condition as long as a process may take to end.
func waited(condition func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	return WaitFor(ctx, "all processes of the lab have ended", condition)
}

// signalStray signals a process if it is (still) one of the lab's.
func (l *Lab) signalStray(pid int, signal os.Signal) error {
	// FindProcess pins the process, so the check below is of the one that is signalled.
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer process.Release()
	inside, err := l.inside(pid)
	if err != nil || !inside {
		return err
	}
	if err := process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// pids lists the processes in the lab's namespaces, but for this one, whose
// threads visit them.
func (l *Lab) pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if inside, err := l.inside(pid); err != nil {
			return nil, err
		} else if inside {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// inside reports whether a process is in one of the lab's namespaces. A process
// that has ended is not.
func (l *Lab) inside(pid int) (bool, error) {
	var theirs, ours unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &theirs); err != nil {
		return false, nil
	}
	for _, h := range l.Hosts() {
		if h.ns == nil {
			continue
		}
		if err := unix.Fstat(int(h.ns.Fd()), &ours); err != nil {
			return false, fmt.Errorf("stat the namespace of %s: %w", h.Name, err)
		}
		if theirs.Ino == ours.Ino && theirs.Dev == ours.Dev {
			return true, nil
		}
	}
	return false, nil
}

// Command kernels runs tests on other kernels than this machine's: Debian's cloud
// kernels, in virtual machines that are emulated, so that nothing of the host is
// needed or touched. Each boots into an initramfs with the tests, the product and
// the programs they use, prints what the tests print, and powers itself off.
//
//	go run ./tools/kernels [-v] [-job NAME] [LINE ...]
//
// A line is a kernel series such as 6.1; the newest of it that apt knows is
// taken, and kept in .cache for the next time. The exit status is 0 only if every
// machine said at its end that everything passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	r := runner{}
	flag.BoolVar(&r.verbose, "v", false, "print everything that tests print")
	flag.StringVar(&r.only, "job", "", "run only the job of this `name`")
	flag.StringVar(&r.cache, "cache", ".cache/kernels", "keep packages, images and logs in this `directory`")
	flag.DurationVar(&r.timeout, "timeout", 20*time.Minute, "give one machine this much `time`")
	flag.Parse()
	lines := flag.Args()
	if len(lines) == 0 {
		lines = []string{"6.1", "6.12"}
	}
	if err := r.run(ctx, lines); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// runner runs all jobs on several kernels.
type runner struct {
	cache   string
	verbose bool
	only    string
	timeout time.Duration

	printing sync.Mutex
}

func (r *runner) run(ctx context.Context, lines []string) error {
	if err := os.MkdirAll(r.cache, 0o755); err != nil {
		return err
	}
	b, err := r.build(ctx, slices.DeleteFunc(jobs(), func(j job) bool { return r.only != "" && r.only != j.Name }))
	if err != nil {
		return err
	}
	// Tests find the repository's files where they are relative to their package.
	for _, name := range []string{"bin/steelyard", "pkg/dataplane/lb_bpfel.o", "pkg/backend/decap_bpfel.o"} {
		b.files = append(b.files, placed{name, name})
	}
	// One after the other: apt locks its lists.
	kernels := make([]kernel, len(lines))
	for i, line := range lines {
		if kernels[i], err = (debian{r.cache}).kernel(ctx, line); err != nil {
			return fmt.Errorf("get Linux %s: %w", line, err)
		}
	}
	if err := r.prove(ctx, kernels[0]); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(lines))
	for i, k := range kernels {
		wg.Go(func() {
			if err := r.test(ctx, k, b); err != nil {
				errs[i] = fmt.Errorf("FAIL: Linux %s: %w", k.release, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// print prints lines, each marked with the kernel that they are about.
func (r *runner) print(line, format string, args ...any) {
	r.printing.Lock()
	defer r.printing.Unlock()
	for text := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Printf("%-5s %s\n", line, strings.TrimSuffix(text, "\n"))
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

// built is what machines get: files that do not depend on the kernel, and jobs.
type built struct {
	files []placed
	jobs  []plan.Job
	init  string
}

// placed is a file or directory of the repository with its place in a machine.
type placed struct{ source, name string }

// build compiles the guest and the tests of jobs.
func (r *runner) build(ctx context.Context, jobs []job) (built, error) {
	out, err := filepath.Abs(filepath.Join(r.cache, "build"))
	if err != nil {
		return built{}, err
	}
	b := built{init: filepath.Join(out, "guest")}
	if err := compile(ctx, "build", b.init, "./tools/kernels/guest"); err != nil {
		return b, err
	}
	compiled := map[string]bool{}
	for _, j := range jobs {
		name := path.Base(j.pkg) + ".test"
		j.Program, j.Dir, j.Timeout = path.Join(j.pkg, name), j.pkg, jobTimeout
		b.jobs = append(b.jobs, j.Job)
		if compiled[j.pkg] {
			continue
		}
		compiled[j.pkg] = true
		binary := filepath.Join(out, name)
		if err := compile(ctx, "test", binary, "-c", "-tags="+j.tags, "./"+j.pkg); err != nil {
			return b, err
		}
		b.files = append(b.files, placed{binary, j.Program}, placed{j.pkg + "/testdata", j.pkg + "/testdata"})
	}
	return b, nil
}

// compile makes a static binary: a machine has no C library of this one's.
func compile(ctx context.Context, verb, to string, args ...string) error {
	goArgs := append([]string{"CGO_ENABLED=0", "go", verb, "-buildvcs=false", "-ldflags=-s -w", "-o", to}, args...)
	_, err := output(ctx, "", "env", goArgs...)
	return err
}

// test boots one kernel and runs all jobs there.
func (r *runner) test(ctx context.Context, k kernel, b built) error {
	began := time.Now()
	m := machine{kernel: k, jobs: slices.Clone(b.jobs), timeout: r.timeout}
	for i, job := range m.jobs {
		skip := unable(k.line)[job.Name]
		m.jobs[i].Skip = append(slices.Clone(job.Skip), skip...)
		m.jobs[i].Tests = slices.DeleteFunc(slices.Clone(job.Tests), func(name string) bool { return slices.Contains(skip, name) })
	}
	var unsaid []string
	m.say = func(text string) {
		if r.verbose {
			r.print(k.line, "%s", text)
		} else {
			unsaid = append(unsaid, text)
		}
	}
	m.ended = func(e plan.Event) {
		if !e.Passed {
			r.print(k.line, "%s", strings.Join(unsaid, "\n"))
		}
		unsaid = nil
		r.print(k.line, "%s", summary(e))
	}
	if err := r.boot(ctx, &m, b, k.line); err != nil {
		r.print(k.line, "%s", strings.Join(unsaid, "\n"))
		return err
	}
	r.print(k.line, "ok   Linux %s: %d jobs in %v", k.release, len(m.jobs), time.Since(began).Round(time.Millisecond))
	return nil
}

// boot runs a machine whose files are kept in a directory of that name.
func (r *runner) boot(ctx context.Context, m *machine, b built, name string) error {
	m.dir = filepath.Join(r.cache, strings.ReplaceAll(name, " ", "-"))
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	m.initramfs = filepath.Join(m.dir, "initramfs.cpio")
	if err := b.pack(ctx, m.kernel, m.jobs, m.initramfs); err != nil {
		return err
	}
	return m.run(ctx)
}

func summary(e plan.Event) string {
	if !e.Passed {
		return fmt.Sprintf("FAIL %s (%v): %s", e.Job, e.Took, e.Why)
	}
	return fmt.Sprintf("ok   %s: %d tests passed in %v", e.Job, e.Tests, e.Took)
}

// pack writes the initramfs of a machine.
func (b built) pack(ctx context.Context, k kernel, jobs []plan.Job, to string) error {
	var i image
	p := plan.Plan{Jobs: jobs}
	tree, err := newModuleTree(k)
	if err != nil {
		return err
	}
	modules, err := tree.resolve(ctx, kernelModules())
	if err != nil {
		return err
	}
	for _, m := range modules {
		at := "/modules/" + m.name + ".ko"
		i.add(at, file{data: m.data, mode: 0o644})
		p.Modules = append(p.Modules, at)
	}
	for _, name := range programs() {
		if err := i.program(ctx, name); err != nil {
			return err
		}
	}
	for _, f := range b.files {
		if err := i.tree(path.Join(plan.Root, f.name), f.source); err != nil {
			return err
		}
	}
	if err := i.copy("/init", b.init); err != nil {
		return err
	}
	// nginx looks up the user it is to run as.
	i.add("/etc/passwd", file{data: []byte("root:x:0:0::/root:/bin/sh\n"), mode: 0o644})
	i.add("/etc/group", file{data: []byte("root:x:0:\n"), mode: 0o644})
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	i.add(plan.Path, file{data: text, mode: 0o644})
	return i.write(to)
}

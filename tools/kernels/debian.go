package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kernel is one of Debian's kernels, unpacked.
type kernel struct {
	// line is what was asked for, such as "6.1"; release is what `uname -r` says.
	line, release string
	dir           string
}

func (k kernel) image() string { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }

// debian fetches packages through apt, and only what it does not have yet.
type debian struct {
	cache string
}

// kernel returns the newest cloud kernel of a line that apt knows.
func (d debian) kernel(ctx context.Context, line string) (kernel, error) {
	k, err := d.fetch(ctx, line)
	if err == nil || ctx.Err() != nil {
		return k, err
	}
	// Lists that are missing or out of date look like this, too.
	if updated := asRoot(ctx, "apt-get", "-qq", "update"); updated != nil {
		return k, errors.Join(err, updated)
	}
	return d.fetch(ctx, line)
}

func (d debian) fetch(ctx context.Context, line string) (kernel, error) {
	release, err := newest(ctx, line)
	if err != nil {
		return kernel{}, err
	}
	name := "linux-image-" + release
	file, err := packageFile(ctx, name)
	if err != nil {
		return kernel{}, err
	}
	k := kernel{line: line, release: release, dir: filepath.Join(d.cache, strings.TrimSuffix(file, ".deb"))}
	// A directory of that name is a whole one.
	if _, err := os.Stat(k.dir); err == nil {
		return k, nil
	}
	// A file that is there already and is as it should be is not fetched again.
	if _, err := output(ctx, d.cache, "apt-get", "-qq", "download", name); err != nil {
		return kernel{}, err
	}
	scratch := k.dir + ".part"
	if err := os.RemoveAll(scratch); err != nil {
		return kernel{}, err
	}
	if _, err := output(ctx, "", "dpkg-deb", "--extract", filepath.Join(d.cache, file), scratch); err != nil {
		return kernel{}, err
	}
	if err := os.Rename(scratch, k.dir); err != nil {
		return kernel{}, err
	}
	return k, d.prune(k)
}

// newest returns the newest release of a line.
func newest(ctx context.Context, line string) (string, error) {
	shape := fmt.Sprintf(`^linux-image-%s\.[0-9a-z.+~-]*-cloud-amd64$`, regexp.QuoteMeta(line))
	out, err := output(ctx, "", "apt-cache", "search", "--names-only", shape)
	if err != nil {
		return "", err
	}
	var releases []string
	for found := range strings.Lines(out) {
		name, _, _ := strings.Cut(found, " ")
		releases = append(releases, strings.TrimPrefix(name, "linux-image-"))
	}
	if len(releases) == 0 {
		return "", fmt.Errorf("apt knows no linux-image-%s.*-cloud-amd64; it takes the package lists of Debian 12 with its security updates", line)
	}
	return slices.MaxFunc(releases, compareReleases), nil
}

// packageFile is the name of a package's file.
func packageFile(ctx context.Context, name string) (string, error) {
	out, err := output(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if file, ok := strings.CutPrefix(line, "Filename: "); ok {
			return path.Base(strings.TrimSpace(file)), nil
		}
	}
	return "", fmt.Errorf("apt-cache show %s names no file", name)
}

// prune removes packages and older kernels of a line.
func (d debian) prune(current kernel) error {
	old, err := filepath.Glob(filepath.Join(d.cache, "linux-image-"+current.line+".*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if path != current.dir {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// compareReleases compares the numbers in two releases, the first that differs
// decides: 6.1.0-9 is before 6.1.0-56.
func compareReleases(a, b string) int {
	return slices.Compare(numbersIn(a), numbersIn(b))
}

func numbersIn(release string) []uint64 {
	var numbers []uint64
	for _, digits := range strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' }) {
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			break
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// output runs a command in a directory and returns its standard output.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// asRoot runs a command as root, through sudo where that is needed.
func asRoot(ctx context.Context, name string, args ...string) error {
	if os.Geteuid() != 0 {
		name, args = "sudo", append([]string{name}, args...)
	}
	_, err := output(ctx, "", name, args...)
	return err
}

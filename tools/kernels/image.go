package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// image collects the files of an initramfs.
type image struct {
	files map[string]file // by absolute path, without the slash in front
}

// file is what is at a path: its content, or where that is to be read.
type file struct {
	data   []byte
	source string
	mode   fs.FileMode
}

func (i *image) add(name string, f file) {
	if i.files == nil {
		i.files = map[string]file{}
	}
	i.files[strings.TrimPrefix(name, "/")] = f
}

func (i *image) copy(name, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	i.add(name, file{source: source, mode: info.Mode().Perm()})
	return nil
}

// tree adds a directory with everything below it, if it is there.
func (i *image) tree(name, source string) error {
	return filepath.WalkDir(source, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && at == source && os.IsNotExist(err):
			return nil
		case err != nil || entry.IsDir():
			return err
		}
		below, err := filepath.Rel(source, at)
		if err != nil {
			return err
		}
		return i.copy(path.Join(name, filepath.ToSlash(below)), at)
	})
}

// program adds one of this machine's programs to /bin, with its libraries.
func (i *image) program(ctx context.Context, name string) error {
	at, err := findProgram(name)
	if err != nil {
		return err
	}
	if err := i.copy("/bin/"+name, at); err != nil {
		return err
	}
	out, err := output(ctx, "", "ldd", at)
	if err != nil {
		return err
	}
	// "	libm.so.6 => /lib/libm.so.6 (0x7f...)" or "	/lib64/ld-linux-x86-64.so.2 (0x7f...)"
	for word := range strings.FieldsSeq(out) {
		if filepath.IsAbs(word) {
			if err := i.copy(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// findProgram also looks where the PATH of an ordinary user does not.
func findProgram(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if at, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return at, nil
		}
	}
	return "", fmt.Errorf("there is no program %s; install it with tools/setup.sh kernels", name)
}

// write writes a cpio archive in the format "newc" (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). It is not
// compressed: unpacking would take the machine longer than reading.
func (i *image) write(name string) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if closed := out.Close(); err == nil {
			err = closed
		}
	}()
	w := &archive{Writer: bufio.NewWriterSize(out, 1<<20)}
	for _, dir := range i.directories() {
		if err := w.entry(dir, fs.FileMode(0o40755), nil); err != nil {
			return err
		}
	}
	for name, f := range i.files {
		data := f.data
		if f.source != "" {
			if data, err = os.ReadFile(f.source); err != nil {
				return err
			}
		}
		if err := w.entry(name, 0o100000|f.mode, data); err != nil {
			return err
		}
	}
	if err := w.entry("TRAILER!!!", 0, nil); err != nil {
		return err
	}
	return w.Flush()
}

// directories lists those of all files, each after the one that it is in.
func (i *image) directories() []string {
	var all []string
	for name := range i.files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			all = append(all, dir)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// archive writes entries of a cpio archive.
type archive struct {
	*bufio.Writer
	inode int
}

func (a *archive) entry(name string, mode fs.FileMode, data []byte) error {
	a.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, uint32(mode), 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(header), data} {
		if _, err := a.Write(part); err != nil {
			return err
		}
		// Header and data each end at a multiple of four bytes.
		if _, err := io.WriteString(a, strings.Repeat("\x00", -len(part)&3)); err != nil {
			return err
		}
	}
	return nil
}

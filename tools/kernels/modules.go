package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// moduleTree knows the modules of a kernel. Debian's packages have no
// modules.dep, which is made when they are installed; each module says itself
// what it needs.
type moduleTree struct {
	paths   map[string]string
	builtin map[string]bool
}

func newModuleTree(k kernel) (moduleTree, error) {
	t := moduleTree{paths: map[string]string{}, builtin: map[string]bool{}}
	root := filepath.Join(k.dir, "lib", "modules", k.release)
	builtin, err := os.ReadFile(filepath.Join(root, "modules.builtin"))
	if err != nil {
		return t, err
	}
	for line := range strings.Lines(string(builtin)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.Contains(entry.Name(), ".ko") {
			t.paths[moduleName(path)] = path
		}
		return err
	})
	return t, err
}

// moduleName is the name that the kernel uses for a file: udp_tunnel for
// net/ipv4/udp_tunnel.ko.xz.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// module is a module's name and the content of its file, uncompressed.
type module struct {
	name string
	data []byte
}

// resolve returns the modules of these names and what they need, each after
// what it needs. Names that are built into the kernel are left out.
func (t moduleTree) resolve(ctx context.Context, names []string) ([]module, error) {
	var all []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || t.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := t.paths[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		data, err := readModule(ctx, path)
		if err != nil {
			return err
		}
		needs, err := moduleNeeds(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return fmt.Errorf("%s needs: %w", name, err)
			}
		}
		all = append(all, module{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func readModule(ctx context.Context, path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		data, err := output(ctx, "", "xz", "--decompress", "--stdout", path)
		return []byte(data), err
	}
	return nil, fmt.Errorf("%s: compressed in a way that is not known here", path)
}

// moduleNeeds reads the entry "depends" of the section .modinfo.
func moduleNeeds(data []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(strings.ReplaceAll(list, "-", "_"), ","), nil
		}
	}
	return nil, nil
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Limits of what is written by hand. The functions of test files may be longer:
// they are tables.
const (
	maxFileLines     = 600
	maxFunctionLines = 60
)

// linter collects the faults of a module.
type linter struct {
	root   string
	module string
	faults []string
}

// lint returns the faults of the module in root, in the order of its files.
func lint(root string) ([]string, error) {
	module, err := modulePath(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	l := &linter{root: root, module: module}
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		if entry.IsDir() {
			if skipped(file) {
				return fs.SkipDir
			}
			return nil
		}
		return l.file(file)
	})
	return l.faults, err
}

// skipped directories hold nothing written here: vendored headers, hidden
// files, test data.
func skipped(dir string) bool {
	base := path.Base(dir)
	return dir == "bpf/headers" || base == "testdata" || base == "vendor" || (len(base) > 1 && base[0] == '.')
}

func modulePath(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("this is not the root of a module: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(name), nil
		}
	}
	return "", errors.New(file + " names no module")
}

func (l *linter) fail(file string, line int, format string, args ...any) {
	l.faults = append(l.faults, fmt.Sprintf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
}

func (l *linter) file(file string) error {
	extension := path.Ext(file)
	if extension != ".go" && extension != ".c" && extension != ".h" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(l.root, file))
	if err != nil {
		return err
	}
	if extension != ".go" {
		l.length(file, data)
		l.cFunctions(file, data)
		return nil
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if !ast.IsGenerated(parsed) {
		l.length(file, data)
		if !strings.HasSuffix(file, "_test.go") {
			l.goFunctions(file, set, parsed)
		}
	}
	l.imports(file, set, parsed)
	return nil
}

func (l *linter) length(file string, data []byte) {
	if n := bytes.Count(data, []byte("\n")); n > maxFileLines {
		l.fail(file, n, "the file has %d lines, at most %d are wanted", n, maxFileLines)
	}
}

func (l *linter) goFunctions(file string, set *token.FileSet, parsed *ast.File) {
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first, last := set.Position(f.Pos()).Line, set.Position(f.End()).Line
		l.functionLength(file, first, last-first+1, "function "+f.Name.Name)
	}
}

// cFunctions relies on the layout that clang-format gives to functions: the
// braces of the body stand alone in the first column.
func (l *linter) cFunctions(file string, data []byte) {
	start := 0
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case line == "{":
			start = i + 1
		case line == "}" && start > 0:
			l.functionLength(file, start, i+2-start, "the function")
			start = 0
		}
	}
}

func (l *linter) functionLength(file string, line, length int, name string) {
	if length > maxFunctionLines {
		l.fail(file, line, "%s has %d lines, at most %d are wanted", name, length, maxFunctionLines)
	}
}

func (l *linter) imports(file string, set *token.FileSet, parsed *ast.File) {
	dir := path.Dir(file)
	all := rules()
	i := slices.IndexFunc(all, func(r rule) bool { return within(dir, r.dir) })
	if i < 0 {
		l.fail(file, 1, "no rule covers %s; add one to tools/lint/table.go", dir)
		return
	}
	test := strings.HasSuffix(file, "_test.go")
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has refused it already
		}
		if why := l.refusal(all[i], dir, imported, test); why != "" {
			l.fail(file, set.Position(spec.Pos()).Line, "%s may not import %s: %s", dir, imported, why)
		}
	}
}

// refusal says why a directory may not import a package, or nothing.
func (l *linter) refusal(r rule, dir, imported string, test bool) string {
	local, inModule := strings.CutPrefix(imported, l.module+"/")
	switch {
	case inModule && within(local, r.dir):
		return ""
	case inModule && within(local, "tools"):
		return "tools are never imported"
	case test:
		return ""
	case inModule && !slices.ContainsFunc(r.inModule, func(d string) bool { return within(local, d) }):
		return fmt.Sprintf("%s may import %s", r.dir, list(r.inModule))
	case inModule:
		return ""
	case r.pure && strings.Contains(strings.Split(imported, "/")[0], "."):
		return "apart from this module it uses the standard library only"
	}
	for _, o := range owners() {
		if within(imported, o.library) && !slices.ContainsFunc(o.dirs, func(d string) bool { return within(dir, d) }) {
			return "only " + list(o.dirs) + " may"
		}
	}
	return ""
}

// within reports whether a slash-separated path is dir or below it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}

func list(dirs []string) string {
	if len(dirs) == 0 {
		return "nothing of this module"
	}
	return strings.Join(dirs, ", ")
}

package config

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/printer"
	"github.com/goccy/go-yaml/token"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Error is one fault of a configuration file.
type Error struct {
	File string
	// Line and Column count from 1; both are 0 where the fault has no place.
	Line, Column int
	// Key is the offending key with its parents, such as "limits.vips", or
	// empty for a fault of the YAML itself.
	Key string
	// Reason says what is wrong and what to do.
	Reason string
	// Excerpt shows the lines around the place, with a caret below it.
	Excerpt string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Reason)
	if e.Excerpt != "" {
		b.WriteString("\n" + e.Excerpt)
	}
	return b.String()
}

func newError(file string, at *token.Token, key, reason string) *Error {
	e := &Error{File: file, Key: key, Reason: reason}
	if at != nil && at.Position != nil {
		var p printer.Printer
		e.Line, e.Column = at.Position.Line, at.Position.Column
		e.Excerpt = strings.TrimRight(p.PrintErrorToken(at, false), " \n")
	}
	return e
}

type node = ast.Node

// parseYAML returns the root of the only document, or nil if it is empty.
func parseYAML(file string, data []byte) (node, error) {
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		if fault, ok := errors.AsType[yaml.Error](err); ok {
			return nil, newError(file, fault.GetToken(), "", fault.GetMessage())
		}
		return nil, newError(file, nil, "", err.Error())
	}
	var root node
	for _, doc := range parsed.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			return nil, newError(file, doc.Body.GetToken(), "", "a second document begins here; a configuration has one")
		}
		root = doc.Body
	}
	return root, nil
}

// reader walks the tree of a file into Go values and collects its faults. The
// YAML library's own decoder is not used: it turns numbers into text, text into
// numbers, and fractions into whole numbers, and it stops at the first fault.
type reader struct {
	file   string
	faults []error
}

// field reads the value of one key; path is the key with its parents.
type field func(path string, value node)

type keys map[string]field

func (r *reader) fail(at node, path, format string, args ...any) {
	r.faults = append(r.faults, newError(r.file, at.GetToken(), path, fmt.Sprintf(format, args...)))
}

func (r *reader) mapping(at node, path string, known keys) {
	m, ok := at.(ast.MapNode)
	if !ok {
		r.fail(at, path, "want keys and values, not %s", kind(at))
		return
	}
	for entry := m.MapRange(); entry.Next(); {
		key := entry.Key().GetToken().Value
		full := strings.TrimPrefix(path+"."+key, ".")
		read, ok := known[key]
		if !ok {
			r.fail(entry.Key(), full, "unknown key; %s", hint(key, known))
			continue
		}
		read(full, entry.Value())
	}
}

func hint(key string, known keys) string {
	all := make([]string, 0, len(known))
	for k := range known {
		all = append(all, k)
	}
	slices.Sort(all)
	if near := model.Near(key, all); len(near) > 0 {
		return "did you mean " + near[0] + "?"
	}
	return "known here: " + strings.Join(all, ", ")
}

func (r *reader) section(known keys) field {
	return func(path string, value node) { r.mapping(value, path, known) }
}

func (r *reader) text(set setter) field {
	return func(path string, value node) {
		s, ok := value.(*ast.StringNode)
		if !ok {
			r.fail(value, path, "want text%s, not %s", quoted(value), kind(value))
			return
		}
		if err := set(s.Value); err != nil {
			r.fail(value, path, "%v", err)
		}
	}
}

// quoted suggests quotes for what YAML takes for a number, a truth or a null.
func quoted(value node) string {
	if s, ok := value.(ast.ScalarNode); ok && value.Type() != ast.LiteralType && s.GetToken().Value != "" {
		return fmt.Sprintf(" (%q in quotes?)", s.GetToken().Value)
	}
	return ""
}

func number[T uint16 | uint32](r *reader, dst *T, low, high T) field {
	return func(path string, value node) {
		i, ok := value.(*ast.IntegerNode)
		if !ok {
			r.fail(value, path, "want a whole number from %d to %d, not %s", low, high, kind(value))
			return
		}
		n, ok := i.Value.(uint64)
		if !ok || n < uint64(low) || n > uint64(high) {
			r.fail(value, path, "%v is out of range %d to %d", i.Value, low, high)
			return
		}
		*dst = T(n)
	}
}

// zeroOr reads a number that may also be 0.
func zeroOr[T uint16 | uint32](r *reader, dst *T, low, high T) field {
	return func(path string, value node) {
		if i, ok := value.(*ast.IntegerNode); ok && i.Value == uint64(0) {
			*dst = 0
			return
		}
		number(r, dst, low, high)(path, value)
	}
}

// powerOfTwo reads a number and rounds it up to a power of two. high is one.
func powerOfTwo(r *reader, dst *uint32, low, high uint32) field {
	return func(path string, value node) {
		n := *dst
		number(r, &n, low, high)(path, value)
		*dst = 1 << bits.Len32(n-1)
	}
}

func (r *reader) truth(dst *bool) field {
	return func(path string, value node) {
		b, ok := value.(*ast.BoolNode)
		if !ok {
			r.fail(value, path, "want true or false, not %s", kind(value))
			return
		}
		*dst = b.Value
	}
}

// list reads a sequence of texts, each at most once.
func (r *reader) list(dst *[]string, check func(string) error) field {
	return func(path string, value node) {
		seq, ok := value.(*ast.SequenceNode)
		if !ok {
			r.fail(value, path, "want a list, such as [eth1, eth2], not %s", kind(value))
			return
		}
		var all []string
		for i, item := range seq.Values {
			r.text(func(s string) error {
				if slices.Contains(all, s) {
					return fmt.Errorf("%s is in the list already", s)
				}
				all = append(all, s)
				return check(s)
			})(fmt.Sprintf("%s[%d]", path, i), item)
		}
		*dst = all
	}
}

func oneOf[T fmt.Stringer](r *reader, dst *T, choices ...T) field {
	return r.text(func(s string) error {
		known := make([]string, len(choices))
		for i, c := range choices {
			known[i] = c.String()
			if known[i] == s {
				*dst = c
				return nil
			}
		}
		return fmt.Errorf("%q is none of %s", s, strings.Join(known, ", "))
	})
}

// kind names what a node is, in words that do not presume to know YAML's.
func kind(n node) string {
	switch n.Type() {
	case ast.NullType:
		return "nothing"
	case ast.BoolType:
		return "a truth value"
	case ast.IntegerType:
		return "a whole number"
	case ast.FloatType, ast.InfinityType, ast.NanType:
		return "a fraction"
	case ast.StringType:
		return "text"
	case ast.LiteralType:
		return "a block of text"
	case ast.MappingType, ast.MappingValueType:
		return "keys and values"
	case ast.SequenceType:
		return "a list"
	}
	return n.Type().YAMLName()
}

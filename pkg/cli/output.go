package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func outputs() []string { return []string{"table", "json", "yaml"} }

func checkOutput(output string) error {
	if slices.Contains(outputs(), output) {
		return nil
	}
	hint := "want " + strings.Join(outputs(), ", ")
	if near := model.Near(output, outputs()); len(near) > 0 {
		hint = "did you mean " + near[0] + "? " + hint
	}
	return invalid("unknown output %q; %s", output, hint)
}

// print prints a value for programs, or, for people, what text writes.
func (a *app) print(value any, text func(io.Writer)) error {
	if a.output == "table" {
		text(a.Stdout)
		return nil
	}
	encoded, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	encoded = append(encoded, '\n')
	if a.output == "yaml" {
		if encoded, err = toYAML(encoded); err != nil {
			return err
		}
	}
	_, err = a.Stdout.Write(encoded)
	return err
}

// toYAML keeps the order of the fields. It quotes what begins like a number, more
// than YAML 1.2 asks for: readers of YAML 1.1, which abound, take a MAC address
// such as 52:54:00:12:34:56 for a number to the base of 60.
func toYAML(encoded []byte) ([]byte, error) {
	var value any
	if err := yaml.UnmarshalWithOptions(encoded, &value, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	return yaml.MarshalWithOptions(value, yaml.CustomMarshaler(func(s string) ([]byte, error) {
		if s != "" && strings.ContainsAny(s[:1], "0123456789+-.") || strings.Contains(s, "\n") {
			return json.Marshal(s)
		}
		return yaml.Marshal(s)
	}))
}

// table is text in columns.
type table struct{ *tabwriter.Writer }

// newTable begins with the names of the columns. The caller flushes.
func newTable(w io.Writer, header ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	cells := make([]any, len(header))
	for i, h := range header {
		cells[i] = h
	}
	t.row(cells...)
	return t
}

// row writes a line; what is empty reads "-".
func (t table) row(cells ...any) {
	line := make([]string, len(cells))
	for i, c := range cells {
		line[i] = oneLine(fmt.Sprint(c))
		if line[i] == "" {
			line[i] = "-"
		}
	}
	fmt.Fprintln(t, strings.Join(line, "\t"))
}

// oneLine keeps what probes were answered from breaking columns and terminals.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// flush prints the table. What a terminal or a pipe refuses is lost; the exit
// code then speaks of the command, not of its reader.
func (t table) flush() { _ = t.Flush() }

// properties prints names and values, one pair a line.
func properties(w io.Writer, pairs ...string) {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	for pair := range slices.Chunk(pairs, 2) {
		value := pair[1]
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(t, "%s:\t%s\n", pair[0], value)
	}
	t.flush()
}

// ago renders how long something has lasted.
func ago(now, since time.Time) string {
	if since.IsZero() {
		return ""
	}
	return rounded(now.Sub(since))
}

// rounded renders a time in whole seconds, in its two largest units.
func rounded(d time.Duration) string {
	d = max(0, d).Truncate(time.Second)
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return d.String()
}

// span renders a setting as an operator would write it: "15m", not "15m0s".
func span(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// size renders bytes with a binary prefix.
func size(bytes uint64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefix := float64(bytes)/1024, 0
	for ; value >= 1024; prefix++ {
		value /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}

func plural(n int, one string) string {
	switch {
	case n == 1:
		return "1 " + one
	case n == 0:
		return "no " + one + "s"
	}
	return fmt.Sprintf("%d %ss", n, one)
}

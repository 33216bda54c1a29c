package model

import (
	"fmt"
	"slices"
	"strings"
)

// FieldError says what is wrong with one field of a state, and where.
type FieldError struct {
	// Path names the place in the operator's words, such as
	// `pool "web", backend 10.0.1.10, weight`.
	Path string
	// Reason says what is wrong and what to do.
	Reason string
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Reason }

// ConflictError says that something exists already, or is still in use.
type ConflictError struct {
	Reason string
	// Exists: a name is taken. Otherwise something is still in use.
	Exists bool
}

func (e *ConflictError) Error() string { return e.Reason }

// NotFoundError says that a name is unknown and which names come close.
type NotFoundError struct {
	Kind, Name string
	// In is the pool that was searched, empty for VIPs and pools.
	In string
	// Near holds the names most like it, nearest first, at most three.
	Near []string
}

func (e *NotFoundError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no %s %q", e.Kind, e.Name)
	if e.In != "" {
		fmt.Fprintf(&b, " in pool %q", e.In)
	}
	if len(e.Near) > 0 {
		fmt.Fprintf(&b, "; did you mean %s?", strings.Join(e.Near, ", "))
	}
	return b.String()
}

func notFound(kind, name, in string, known []string) error {
	return &NotFoundError{Kind: kind, Name: name, In: in, Near: Near(name, known)}
}

// Near returns the known words most like a misspelt one, nearest first, at most three.
func Near(word string, known []string) []string {
	type candidate struct {
		word     string
		distance int
	}
	limit := max(2, len(word)/3)
	var close []candidate
	for _, k := range known {
		d := editDistance(strings.ToLower(word), strings.ToLower(k))
		if d <= limit || (word != "" && strings.HasPrefix(k, word)) {
			close = append(close, candidate{k, d})
		}
	}
	slices.SortFunc(close, func(a, b candidate) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.word, b.word)
	})
	out := make([]string, 0, 3)
	for _, c := range close[:min(3, len(close))] {
		out = append(out, c.word)
	}
	return out
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// parseEnum finds the value whose String is s.
func parseEnum[T fmt.Stringer](what, s string, values []T) (T, error) {
	known := names(values, func(v T) string { return v.String() })
	if i := slices.Index(known, s); i >= 0 {
		return values[i], nil
	}
	var zero T
	hint := "want " + strings.Join(known, ", ")
	if near := Near(s, known); len(near) > 0 {
		hint = "did you mean " + near[0] + "? " + hint
	}
	return zero, fmt.Errorf("unknown %s %q; %s", what, s, hint)
}

// RevisionError says that the desired state is no longer the one that a change
// was made for.
type RevisionError struct{ Expected, Actual uint64 }

func (e *RevisionError) Error() string {
	return fmt.Sprintf("the desired state is at revision %d, not %d: somebody changed it in between; look at it again and repeat the change", e.Actual, e.Expected)
}

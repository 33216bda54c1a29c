// Package measure is what measuring commands share: samples summed up, the machine that they
// are of, and the files and pages that they go to.
package measure

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
)

// Spread sums up samples.
type Spread struct {
	Median, Min, Max float64
}

// NewSpread sums up one sample or more.
func NewSpread(samples []float64) Spread {
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

// SaveJSON writes results as a JSON array, one to a line.
func SaveJSON[T any](file string, results []T) error {
	var b strings.Builder
	for i, result := range results {
		line, err := json.Marshal(result)
		if err != nil {
			return err
		}
		b.WriteString(map[bool]string{true: "[\n  ", false: ",\n  "}[i == 0])
		b.Write(line)
	}
	b.WriteString("\n]\n")
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

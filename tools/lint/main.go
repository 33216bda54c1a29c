// Command lint checks what the general linters do not know about this project:
// which package may import which (see table.go), and that files and functions
// stay short enough to be read. It is run at the root of the module:
//
//	go run ./tools/lint
//
// Faults are printed one a line, with their place; the exit status is then 1.
package main

import (
	"fmt"
	"os"
)

func main() {
	faults, err := lint(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(2)
	}
	for _, f := range faults {
		fmt.Println(f)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

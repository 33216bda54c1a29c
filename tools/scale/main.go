package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out, stderr io.Writer) error {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.SetOutput(stderr)
	json := flags.String("json", "", "write the results to this `FILE`, as JSON")
	page := flags.String("page", "", "write the report to this `FILE`, as Markdown")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; scale -h lists the flags", flags.Arg(0))
	}
	measured, err := read(in)
	if err != nil {
		return err
	}
	r, err := newReport(measured)
	if err != nil {
		return err
	}
	if *json != "" {
		if err := r.save(*json); err != nil {
			return fmt.Errorf("-json: %w", err)
		}
	}
	if *page != "" {
		if err := r.savePage(*page); err != nil {
			return fmt.Errorf("-page: %w", err)
		}
	}
	_, err = io.WriteString(out, r.table())
	return err
}

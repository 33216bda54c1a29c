package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

//go:embed performance.md.tmpl
var pageText string

// savePage writes the report as a page with its plot beside it.
func (r *report) savePage(file string) error {
	plot := strings.TrimSuffix(file, filepath.Ext(file)) + ".svg"
	page, err := measure.Page(pageText, struct {
		*report
		Plot, Table string
	}{r, filepath.Base(plot), r.table()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(plot, []byte(r.plot().svg()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(file, page, 0o644)
}

// table is the report's rows in Markdown.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| case | flows | generator | tail call | floor | steelyard | spread | classic | spread | ratio |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for i := range r.Rows {
		row := &r.Rows[i]
		generator, tail := row.Results[nameGenerator].Median, row.Results[nameTail].Median
		floor, ok := row.Results[nameFloor]
		fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f | %s | %s | %s | %s | %s | %s |\n", row.Case, row.flows(), generator, tail-generator,
			figure(1)(floor.Median-generator, ok), figure(1)(row.net(nameSteelyard)), row.spread(nameSteelyard),
			figure(1)(row.net(nameClassic)), row.spread(nameClassic), figure(2)(row.ratio()))
	}
	return b.String()
}

// spread renders the least and the most that a program took by itself.
func (r *row) spread(program string) string {
	s, ok := r.Results[program]
	if !ok {
		return none
	}
	tail := r.Results[nameTail].Median
	return fmt.Sprintf("%.0f to %.0f", s.Min-tail, s.Max-tail)
}

// plot shows how what packets cost grows with the number of flows.
func (r *report) plot() *plot {
	p := &plot{title: "Cost of a packet of a known flow, net", across: "flows", up: "ns"}
	for _, s := range []struct{ label, program, testCase string }{
		{"classic", nameClassic, "tcp4 dsr-ipip"},
		{"classic, IPv6", nameClassic, "tcp6 dsr-ipip"},
		{"fullnat", nameSteelyard, "tcp4 fullnat"},
		{"fullnat, replies", nameSteelyard, "tcp4 fullnat replies"},
		{"tracking: always", nameSteelyard, "tcp4 dsr-ipip tracking always"},
		{"in flux", nameSteelyard, "tcp4 dsr-ipip in flux"},
		{"settled, IPv6", nameSteelyard, "tcp6 dsr-ipip"},
		{"settled", nameSteelyard, "tcp4 dsr-ipip"},
	} {
		line := line{label: s.label, dashed: s.program == nameClassic}
		for i := range r.Rows {
			row := &r.Rows[i]
			if net, ok := row.net(s.program); ok && row.Case == s.testCase {
				line.points = append(line.points, point{float64(row.Flows), max(0, net)})
			}
		}
		if line.points != nil {
			p.lines = append(p.lines, line)
		}
	}
	return p
}

package main

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

//go:embed throughput.md.tmpl
var pageText string

// savePage writes the report as a page.
func (r *report) savePage(file string) error {
	page, err := measure.Page(pageText, r)
	if err != nil {
		return err
	}
	return os.WriteFile(file, page, 0o644)
}

// find is a program's row, nil if there is none.
func (r *report) find(name, program string, cores int) *row {
	rows := r.rows()
	i := slices.IndexFunc(rows, func(row row) bool { return row.Case == name && row.Program == program && row.Cores == cores })
	if i < 0 {
		return nil
	}
	return &rows[i]
}

// by renders a program's figure by another's.
func (r *report) by(name, program, other string) string {
	of, to := r.find(name, program, r.Machine.CPUs), r.find(name, other, r.Machine.CPUs)
	if of == nil || to == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", of.Median/to.Median)
}

// PacketTable is the figures of packets in Markdown.
func (r *report) PacketTable() string {
	var b strings.Builder
	b.WriteString("| case | cores | program | packets per second | spread | of xdp_tx | ns more |\n|---|--:|---|--:|--:|--:|--:|\n")
	for i := range r.Packets {
		row := &r.Packets[i]
		least := r.find(row.Case, sendsBack, row.Cores)
		more := 1e9 * float64(row.Cores) * (1/row.Median - 1/least.Median)
		fmt.Fprintf(&b, "| %s | %d | %s | %.2f M | %.2f to %.2f | %.2f | %.0f |\n", strings.TrimPrefix(row.Case, "packets, "), row.Cores,
			row.Program, row.Median/1e6, row.Min/1e6, row.Max/1e6, r.ratio(row), more)
	}
	return b.String()
}

// MostLost is the largest share of frames that a turn lost, in percent.
func (r *report) MostLost() string {
	most := 0.0
	for i := range r.Packets {
		most = max(most, r.Packets[i].Lost)
	}
	return fmt.Sprintf("%.3g", 100*most)
}

// WebTable is the figures of HTTP in Markdown.
func (r *report) WebTable() string {
	var b strings.Builder
	b.WriteString("| case | path | per second | spread | of no balancer | of bare xdp | p50 | p99 |\n|---|---|--:|--:|--:|--:|--:|--:|\n")
	for i := range r.Web {
		row := &r.Web[i]
		if row.Unit == unitMicroseconds {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %.0f %s | %.0f to %.0f | %s | %s | %s | %s |\n", strings.TrimPrefix(row.Case, "http "), row.Program,
			row.Median, strings.TrimSuffix(row.Unit, "/s"), row.Min, row.Max, r.by(row.Case, row.Program, noBalancer),
			r.by(row.Case, row.Program, bareXDP), r.latency(row, "p50"), r.latency(row, "p99"))
	}
	return b.String()
}

// latency renders a percentile of a row's case, in milliseconds.
func (r *report) latency(of *row, percentile string) string {
	row := r.find(of.Case+", latency "+percentile, of.Program, of.Cores)
	if row == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", row.Median/1000)
}

// Wanted says what was wanted of each case of HTTP, and what came.
func (r *report) Wanted() string {
	var b strings.Builder
	b.WriteString("| case | dsr-ipip of no balancer, wanted 0.97 | of nginx stream, wanted > 1 | of haproxy tcp, wanted > 1 | one hop more of no balancer | dsr-l2 of bare xdp |\n|---|--:|--:|--:|--:|--:|\n")
	for i := range r.Web {
		if row := &r.Web[i]; row.Program == noBalancer && row.Unit != unitMicroseconds {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", strings.TrimPrefix(row.Case, "http "), r.by(row.Case, steelyardIPIP, noBalancer),
				r.by(row.Case, steelyardIPIP, nginxStream), r.by(row.Case, steelyardIPIP, haproxyTCP),
				r.by(row.Case, oneHopMore, noBalancer), r.by(row.Case, steelyardL2, bareXDP))
		}
	}
	return b.String()
}

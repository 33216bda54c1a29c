package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// plot is a diagram of lines over a logarithmic axis.
type plot struct {
	title, across, up string
	lines             []line
}

// line connects points, in the order of their x.
type line struct {
	label  string
	dashed bool
	points []point
}

// point is a place in the diagram; x is at least 1, y not negative.
type point struct{ x, y float64 }

// Where the axes are, in pixels, with room for the labels to their left, below and to the right.
const (
	plotWidth, plotHeight           = 780, 420
	plotLeft, plotTop               = 60, 40
	plotRight, plotBottom           = 600, 370
	labelHeight, tickLength, marker = 14, 5, 3
)

// colours can be told apart on white by those who do not see red and green, too (Okabe
// and Ito).
func colours() []string {
	return []string{"#000000", "#777777", "#d55e00", "#e69f00", "#cc79a7", "#0072b2", "#56b4e9", "#009e73"}
}

// most returns the ends of the axes: decades across, a round number up.
func (p *plot) most() (decades int, top float64) {
	decades, top = 1, 1
	for _, l := range p.lines {
		for _, at := range l.points {
			decades = max(decades, int(math.Ceil(math.Log10(at.x))))
			top = max(top, at.y)
		}
	}
	return decades, math.Ceil(top/stepBelow(top)) * stepBelow(top)
}

// stepBelow is a round number that goes 4 to 10 times into another.
func stepBelow(n float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(n)))
	for _, part := range []float64{1, 2, 4, 5} {
		if n*part/step >= 4 {
			return step / part
		}
	}
	return step / 10
}

// svg renders the plot.
func (p *plot) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="15">%s</text>`+"\n", plotLeft, p.title)
	decades, top := p.most()
	place := func(at point) (x, y float64) {
		return plotLeft + math.Log10(at.x)/float64(decades)*(plotRight-plotLeft), plotBottom - at.y/top*(plotBottom-plotTop)
	}
	p.axes(&b, decades, top, place)
	labels := p.labels(place)
	for i, l := range p.lines {
		l.draw(&b, colours()[i%len(colours())], labels[i], place)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p *plot) axes(b *strings.Builder, decades int, top float64, place func(point) (x, y float64)) {
	for y := 0.0; y <= top; y += stepBelow(top) {
		_, at := place(point{1, y})
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#dddddd"/>`+"\n", plotLeft, at, plotRight)
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", plotLeft-2*tickLength, at+4, y)
	}
	for i := range decades + 1 {
		at, _ := place(point{math.Pow10(i), 0})
		fmt.Fprintf(b, `<path d="M%.1f %dv%d" stroke="black"/>`+"\n", at, plotBottom, tickLength)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", at, plotBottom+20, math.Pow10(i))
	}
	fmt.Fprintf(b, `<path d="M%d %dV%dH%d" fill="none" stroke="black"/>`+"\n", plotLeft, plotTop, plotBottom, plotRight)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+40, p.across)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft-2*tickLength, plotTop-10, p.up)
}

// labels returns how far down each line's label goes: beside the line's end, and below
// the label above.
func (p *plot) labels(place func(point) (x, y float64)) []float64 {
	at := make([]float64, len(p.lines))
	order := make([]int, len(p.lines))
	for i, l := range p.lines {
		_, at[i] = place(l.points[len(l.points)-1])
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(at[a], at[b]) })
	for i := 1; i < len(order); i++ {
		at[order[i]] = max(at[order[i]], at[order[i-1]]+labelHeight)
	}
	// The lowest ones must not leave the axes' height.
	below := float64(plotBottom)
	for _, i := range slices.Backward(order) {
		at[i] = min(at[i], below)
		below = at[i] - labelHeight
	}
	return at
}

func (l *line) draw(b *strings.Builder, colour string, label float64, place func(point) (x, y float64)) {
	var path strings.Builder
	for i, at := range l.points {
		x, y := place(at)
		fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], x, y)
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%d" fill="%s"/>`+"\n", x, y, marker, colour)
	}
	dash := ""
	if l.dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", path.String(), colour, dash)
	fmt.Fprintf(b, `<text x="%d" y="%.1f" fill="%s">%s, %.0f</text>`+"\n", plotRight+2*marker, label+4, colour, l.label, l.points[len(l.points)-1].y)
}

package dataplane

import (
	"fmt"
	"slices"
)

// ranges hands out runs of consecutive indices, first fit.
type ranges struct {
	what string
	// free runs, sorted, none adjacent to the next.
	free []run
	size uint32
	used uint32
}

// run is the indices from start up to, not including, end.
type run struct{ start, end uint32 }

func (r run) length() uint32 { return r.end - r.start }

// newRanges manages the indices from first up to, not including, end.
func newRanges(what string, first, end uint32) *ranges {
	return &ranges{what: what, free: []run{{first, end}}, size: end - first}
}

// take returns n consecutive indices.
func (r *ranges) take(n uint32) (run, error) {
	for i := range r.free {
		f := &r.free[i]
		if f.length() < n {
			continue
		}
		taken := run{f.start, f.start + n}
		f.start += n
		if f.length() == 0 {
			r.free = slices.Delete(r.free, i, i+1)
		}
		r.used += n
		return taken, nil
	}
	return run{}, fmt.Errorf("no room for %d more %s: %d of %d are in use; raise limits.%s in the configuration", n, r.what, r.used, r.size, r.what)
}

// give returns a run that was taken.
func (r *ranges) give(back run) {
	if back.length() == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(r.free, back.start, func(f run, start uint32) int { return int(f.start) - int(start) })
	r.free = slices.Insert(r.free, i, back)
	if i+1 < len(r.free) && r.free[i].end == r.free[i+1].start {
		r.free[i].end = r.free[i+1].end
		r.free = slices.Delete(r.free, i+1, i+2)
	}
	if i > 0 && r.free[i-1].end == r.free[i].start {
		r.free[i-1].end = r.free[i].end
		r.free = slices.Delete(r.free, i, i+1)
	}
	r.used -= back.length()
}

func (r *ranges) clone() *ranges {
	c := *r
	c.free = slices.Clone(r.free)
	return &c
}

// claim takes a run that somebody has already.
func (r *ranges) claim(want run) error {
	for i, f := range r.free {
		if want.start < f.start || want.end > f.end || want.length() == 0 {
			continue
		}
		r.free = slices.Delete(r.free, i, i+1)
		for _, rest := range []run{{want.end, f.end}, {f.start, want.start}} {
			if rest.length() > 0 {
				r.free = slices.Insert(r.free, i, rest)
			}
		}
		r.used += want.length()
		return nil
	}
	return fmt.Errorf("%s %d to %d are taken twice, or beyond the %d that there are", r.what, want.start, want.end-1, r.size)
}

package health

import (
	"container/heap"
	"time"
)

// absent is the place of a target that is not in the queue.
const absent = -1

// startGap is the least time between the first probes of targets that come
// together: 20,000 a second.
const startGap = 50 * time.Microsecond

// queue orders targets by when they are due. It implements [heap.Interface].
type queue []*target

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements [heap.Interface]; use insert.
func (q *queue) Push(x any) {
	t := x.(*target)
	t.place = len(*q)
	*q = append(*q, t)
}

// Pop implements [heap.Interface]; use remove.
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.place = absent
	return t
}

func (q *queue) insert(t *target) { heap.Push(q, t) }

func (q *queue) remove(t *target) { heap.Remove(q, t.place) }

func (q queue) fix(t *target) { heap.Fix(&q, t.place) }

// jittered lengthens or shortens an interval by up to percent of it; at is
// where in that range, from 0 (shortest) to 1 (longest).
func jittered(interval time.Duration, percent uint32, at float64) time.Duration {
	return time.Duration(float64(interval) * (1 + float64(percent)/100*(2*at-1)))
}

// stagger is how long the first probe of the nth of several targets waits, so
// that they do not all fire at once: never longer than an interval.
func stagger(n int, interval time.Duration) time.Duration {
	return time.Duration(n) * startGap % interval
}

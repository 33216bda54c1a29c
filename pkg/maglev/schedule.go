package maglev

import (
	"cmp"
	"slices"
)

// quotas returns how many slots each member gets: its proportional share,
// rounded down, and one more for those with the largest remainders until all
// slots are given out (the method of largest remainders). No quota is off its
// share by a whole slot. Rounding each turn on its own instead, as time goes
// by, could not promise that: a thousand small roundings add up to a large
// error of the one heavy member among them.
func quotas(size uint32, members []member) []uint32 {
	var total uint64
	for i := range members {
		total += uint64(members[i].weight)
	}
	quota := make([]uint32, len(members))
	remainder := make([]uint64, len(members))
	order := make([]uint32, len(members))
	left := size
	for i := range members {
		share := uint64(size) * uint64(members[i].weight)
		quota[i] = uint32(share / total)
		remainder[i] = share % total
		order[i] = uint32(i)
		left -= quota[i]
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(remainder[b], remainder[a]), cmp.Compare(a, b))
	})
	for _, i := range order[:left] {
		quota[i]++
	}
	return quota
}

// schedule returns whose turn it is to claim a slot, for every slot of the
// table; what is shorter than that is repeated. The heaviest member has a turn in every round; one of weight w has its
// k-th, counted from 0, in round k*heaviest/w rounded down, until its quota is
// used up. Within a round members come in their order. With equal weights that
// is the paper's round robin.
//
// The turns are sorted by round with a counting sort, so idle members cost
// nothing however uneven the weights are.
func schedule(members []member, quota []uint32) []uint32 {
	heaviest, lightest := members[0].weight, members[0].weight
	var turns, total uint64
	for i := range members {
		heaviest, lightest = max(heaviest, members[i].weight), min(lightest, members[i].weight)
		turns += uint64(quota[i])
		total += uint64(members[i].weight)
	}
	if heaviest == lightest {
		return roundRobin(len(members))
	}
	// A member's last round is at most (quota-1)*heaviest/weight, and its
	// quota less than turns*weight/total + 1.
	lastRound := turns * uint64(heaviest) / total
	end := make([]uint32, lastRound+2)
	for i := range members {
		c := newClock(heaviest, members[i].weight)
		for range quota[i] {
			end[c.round+1]++
			c.advance()
		}
	}
	for round := range end[1:] {
		end[round+1] += end[round]
	}
	order := make([]uint32, turns)
	start := end
	for i := range members {
		c := newClock(heaviest, members[i].weight)
		for range quota[i] {
			order[start[c.round]] = uint32(i)
			start[c.round]++
			c.advance()
		}
	}
	return order
}

// roundRobin is a round of n members of the same weight.
func roundRobin(n int) []uint32 {
	round := make([]uint32, n)
	for i := range round {
		round[i] = uint32(i)
	}
	return round
}

// clock counts the rounds of a member's turns without dividing in each.
type clock struct {
	round uint64
	// excess is the part of a round, in weight-ths, that was rounded off.
	excess                   uint64
	period, fraction, weight uint64
}

func newClock(heaviest, weight uint32) clock {
	return clock{period: uint64(heaviest / weight), fraction: uint64(heaviest % weight), weight: uint64(weight)}
}

// advance moves to the round of the next turn.
func (c *clock) advance() {
	c.round += c.period
	c.excess += c.fraction
	if c.excess >= c.weight {
		c.excess -= c.weight
		c.round++
	}
}

package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// A list of prefixes as packets search it; see bpf/sourcelist.h.
const (
	listChunk  = 16
	listValues = 1 << listChunk
	listDense  = listValues - 1
	// denseFrom is from how many nodes on a run has one for every value, half a
	// megabyte: what that saves is a dozen steps.
	denseFrom = 4096
	// listBelow stands for a run that is not there yet.
	listBelow = ^uint32(0)
)

// sourceTree is a source list under construction.
type sourceTree struct{ nodes []lbListNode }

// buildSourceList makes the nodes of a list of sorted prefixes.
func buildSourceList(prefixes []netip.Prefix) []lbListNode {
	ipv4, _ := slices.BinarySearchFunc(prefixes, true, func(p netip.Prefix, _ bool) int {
		if p.Addr().Is6() {
			return 1
		}
		return -1
	})
	t := &sourceTree{nodes: make([]lbListNode, 2, 2+2*len(prefixes))}
	t.root(uint32(lbListAnswerLIST_IPV4), prefixes[:ipv4])
	t.root(uint32(lbListAnswerLIST_IPV6), prefixes[ipv4:])
	return t.nodes
}

func (t *sourceTree) root(at uint32, prefixes []netip.Prefix) {
	if len(prefixes) == 0 {
		return // its node says LIST_OUT
	}
	if prefixes[0].Bits() == 0 {
		t.nodes[at].Below = uint32(lbListAnswerLIST_IN)
		return
	}
	t.run(at, prefixes, 0)
}

// child is what a node of a run is about to have below.
type child struct {
	node     uint32
	prefixes []netip.Prefix
}

// run adds the run below a node: what prefixes that have the first 16·level bits in
// common say of the next 16.
func (t *sourceTree) run(above uint32, prefixes []netip.Prefix, level int) {
	var nodes []lbListNode
	var children []child
	say := func(first int, answer uint32) {
		if n := len(nodes); n > 0 && int(nodes[n-1].First) == first {
			nodes = nodes[:n-1]
		}
		if n := len(nodes); n > 0 && nodes[n-1].Below == answer && answer <= uint32(lbListAnswerLIST_IN) {
			return
		}
		nodes = append(nodes, lbListNode{First: uint16(first), Below: answer})
	}
	say(0, uint32(lbListAnswerLIST_OUT))
	for len(prefixes) > 0 {
		p := prefixes[0]
		first := chunkOf(p.Addr(), level)
		end, free := first+1, (level+1)*listChunk-p.Bits()
		if free >= 0 {
			end = first + 1<<free
			say(first, uint32(lbListAnswerLIST_IN))
		} else {
			say(first, listBelow)
		}
		// Those that are within it, or go on below it.
		n := 1
		for n < len(prefixes) && chunkOf(prefixes[n].Addr(), level) < end {
			n++
		}
		if free < 0 {
			children = append(children, child{uint32(len(nodes) - 1), prefixes[:n]})
		}
		prefixes = prefixes[n:]
		if end < listValues {
			say(end, uint32(lbListAnswerLIST_OUT))
		}
	}
	t.add(above, nodes, children, level)
}

// add places a run, and then what is below it.
func (t *sourceTree) add(above uint32, nodes []lbListNode, children []child, level int) {
	base := uint32(len(t.nodes))
	place := func(node uint32) uint32 { return base + node }
	if len(nodes) >= denseFrom {
		firsts := make([]uint32, len(nodes))
		for i, n := range nodes {
			firsts[i] = uint32(n.First)
		}
		place = func(node uint32) uint32 { return base + firsts[node] }
		nodes = spread(nodes)
	}
	t.nodes = append(t.nodes, nodes...)
	t.nodes[above].Below, t.nodes[above].Last = base, uint16(len(nodes)-1)
	for _, c := range children {
		t.run(place(c.node), c.prefixes, level+1)
	}
}

// spread gives a run a node for every value.
func spread(nodes []lbListNode) []lbListNode {
	all := make([]lbListNode, 0, listValues)
	for i, n := range nodes {
		end := listValues
		if i+1 < len(nodes) {
			end = int(nodes[i+1].First)
		}
		for value := int(n.First); value < end; value++ {
			n.First = uint16(value)
			all = append(all, n)
		}
	}
	return all
}

// chunkOf is the nth 16 bits of an address.
func chunkOf(a netip.Addr, n int) int {
	if a.Is4() {
		b := a.As4()
		return int(binary.BigEndian.Uint16(b[2*n:]))
	}
	b := a.As16()
	return int(binary.BigEndian.Uint16(b[2*n:]))
}

// onList is the twin of the packet path's on_list.
func onList(nodes []lbListNode, a netip.Addr) bool {
	at := uint32(lbListAnswerLIST_IPV4)
	if a.Is6() {
		at = uint32(lbListAnswerLIST_IPV6)
	}
	for level := 0; ; level++ {
		n := nodes[at]
		if n.Below <= uint32(lbListAnswerLIST_IN) {
			return n.Below == uint32(lbListAnswerLIST_IN)
		}
		value := chunkOf(a, level)
		run := nodes[n.Below : n.Below+uint32(n.Last)+1]
		if n.Last == listDense {
			at = n.Below + uint32(value)
			continue
		}
		after, _ := slices.BinarySearchFunc(run, value+1, func(n lbListNode, v int) int { return int(n.First) - v })
		at = n.Below + uint32(after-1)
	}
}

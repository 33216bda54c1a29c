// Package model is Steelyard's vocabulary: VIPs, pools, backends and checks as
// the operator asked for them, the rules that make a set of them valid, and the
// words for what is observed of them. It imports the standard library only;
// every other package speaks in its terms.
package model

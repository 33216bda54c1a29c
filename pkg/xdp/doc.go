// Package xdp is what all our XDP programs have in common: how they are attached
// to an interface, how they hold an address, what their ways out are called, and
// what an operator can do about the kernel's refusals.
package xdp

// Package kernels has the tests that ask whether a kernel will do. `make
// test-kernels` runs them in virtual machines of several kernels, together with
// the packet tables of pkg/dataplane and pkg/backend; what needs nothing unusual
// of the kernel runs on this machine's, too.
package kernels

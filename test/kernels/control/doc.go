// Package control has tests that must not pass, each in another way. The runner
// of the kernel matrix shows with them that it notices. They are behind a build
// tag because two of them take the machine down that they run on.
package control

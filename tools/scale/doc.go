// Command scale turns the output of the control plane's benchmarks, which stand where
// the code lives, into docs/scale.md and docs/scale.json. `make scale` runs both.
//
// Every case that it knows must be in its input: one that is gone or renamed is an
// error, not a gap in the page.
package main

// Package execution counts what programs execute, in a kernel that has no hardware
// counters: it rewrites them, before they are loaded, so that each run through a basic
// block adds one to a number of that block in a map. How many instructions and calls a
// block has is known, so the numbers tell how many of them were executed. None of it
// depends on the clock, and what is added is not counted.
package execution

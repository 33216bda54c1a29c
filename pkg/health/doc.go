// Package health probes backends and says which of them are up. A [Checker]
// holds the set of checks to run, runs each on its own schedule and folds the
// outcomes into health by rise and fall; what it knows is handed out as an
// immutable [Snapshot].
//
// Results are HAProxy's words, so that operators can read them at a glance.
package health

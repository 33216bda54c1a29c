// Package api serves a daemon's desired state and status on a unix socket, and is
// the client of that service. The messages are in steelyardv1; addresses, words
// and errors are those of pkg/model on both sides.
package api

import (
	"context"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Controller owns the desired state. The package apitest has one in memory.
type Controller interface {
	// Desired returns the desired state, which the caller must not change, and
	// its revision.
	Desired() (model.State, uint64)
	// Change runs mutate on a copy of the desired state in the owner's goroutine,
	// validates the outcome, stores it and starts to apply it. On error nothing
	// has changed. If expect is neither 0 nor the current revision, the error is a
	// [model.RevisionError].
	Change(ctx context.Context, expect uint64, note string, mutate func(*model.State) error) (revision uint64, err error)
	// Status returns what is observed.
	Status(ctx context.Context) (model.Status, error)
}

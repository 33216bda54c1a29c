package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// encodeError gives the errors of pkg/model their codes. What has none is a
// failure of the daemon.
func encodeError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return connect.NewError(connect.CodeUnavailable, errors.New("the daemon is stopping, or too busy to answer in time; nothing was changed"))
	}
	return connect.NewError(codeOf(err), err)
}

func codeOf(err error) connect.Code {
	var (
		notFound *model.NotFoundError
		conflict *model.ConflictError
		field    *model.FieldError
		revision *model.RevisionError
	)
	switch {
	case errors.As(err, &notFound):
		return connect.CodeNotFound
	case errors.As(err, &conflict):
		if conflict.Exists {
			return connect.CodeAlreadyExists
		}
		return connect.CodeFailedPrecondition
	case errors.As(err, &field):
		return connect.CodeInvalidArgument
	case errors.As(err, &revision):
		return connect.CodeAborted
	}
	return connect.CodeInternal
}

package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1/steelyardv1connect"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// maxRequest bounds a request, in bytes: a source list as large as lists get fits
// in it.
const maxRequest = 64 << 20

// NewHandler returns the API over a controller and the path to serve it at, as
// [http.ServeMux.Handle] takes them. The clock, [time.Now] but for tests, says from
// when deadlines count.
func NewHandler(c Controller, clock func() time.Time) (string, http.Handler) {
	return steelyardv1connect.NewSteelyardHandler(&server{c, clock}, connect.WithReadMaxBytes(maxRequest))
}

type server struct {
	controller Controller
	clock      func() time.Time
}

func (s *server) Get(context.Context, *steelyardv1.GetRequest) (*steelyardv1.GetResponse, error) {
	state, revision := s.controller.Desired()
	return encodeState(state, revision), nil
}

func (s *server) GetSourceList(_ context.Context, request *steelyardv1.GetSourceListRequest) (*steelyardv1.GetSourceListResponse, error) {
	state, _ := s.controller.Desired()
	l, err := state.SourceList(request.Name)
	if err != nil {
		return nil, encodeError(err)
	}
	return &steelyardv1.GetSourceListResponse{Prefixes: list(l.Prefixes, netip.Prefix.String)}, nil
}

func (s *server) Change(ctx context.Context, request *steelyardv1.ChangeRequest) (*steelyardv1.ChangeResponse, error) {
	// As it will be read back from the store: no monotonic clock, no zone.
	now := s.clock().Round(0).UTC()
	var draining []BackendName
	revision, err := s.controller.Change(ctx, request.ExpectedRevision, request.Note, func(state *model.State) (err error) {
		draining, err = mutate(state, request.Mutations, now)
		return err
	})
	if err != nil {
		return nil, encodeError(err)
	}
	return &steelyardv1.ChangeResponse{Revision: revision, Draining: list(draining, encodeBackendName)}, nil
}

func (s *server) Status(ctx context.Context, _ *steelyardv1.StatusRequest) (*steelyardv1.StatusResponse, error) {
	status, err := s.controller.Status(ctx)
	if err != nil {
		return nil, encodeError(err)
	}
	return encodeStatus(status), nil
}

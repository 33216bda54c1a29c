package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"connectrpc.com/connect"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1/steelyardv1connect"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Error is what a daemon answered to a request that failed.
type Error struct {
	// Code is one of the codes that steelyard.proto names.
	Code    connect.Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// UnreachableError says that no daemon could be talked to, and what to do.
type UnreachableError struct {
	Path   string
	Reason string
	// NoDaemon: nobody listens on the socket. Otherwise somebody may.
	NoDaemon bool
}

func (e *UnreachableError) Error() string { return e.Reason }

// Client talks to a daemon. It may be used by several goroutines. Its errors are
// [*Error], [*UnreachableError], those of the context, and others where the two
// are of versions that do not understand each other.
type Client struct {
	transport *http.Transport
	service   steelyardv1connect.SteelyardClient
}

// NewClient returns a client of the daemon at a socket. It connects when it is
// used; the caller closes it.
func NewClient(socketPath string) *Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socketPath)
		if err != nil {
			return nil, explainDial(socketPath, err)
		}
		return conn, nil
	}}
	return &Client{
		transport: transport,
		service:   steelyardv1connect.NewSteelyardClient(&http.Client{Transport: transport}, "http://steelyard"),
	}
}

// Close ends the connections that are idle.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Get returns the desired state and its revision.
func (c *Client) Get(ctx context.Context) (model.State, uint64, error) {
	response, err := c.service.Get(ctx, &steelyardv1.GetRequest{})
	if err != nil {
		return model.State{}, 0, decodeError(err)
	}
	return decodeState(response)
}

// SourceList returns what is on a source list.
func (c *Client) SourceList(ctx context.Context, name string) ([]netip.Prefix, error) {
	response, err := c.service.GetSourceList(ctx, &steelyardv1.GetSourceListRequest{Name: name})
	if err != nil {
		return nil, decodeError(err)
	}
	d := &decoder{}
	return list(response.Prefixes, func(s string) netip.Prefix { return decodeWord(d, s, model.ParseSourcePrefix) }), d.err
}

// Outcome is what a change led to.
type Outcome struct {
	// Revision is the new one.
	Revision uint64
	// Draining are the backends that were to be drained or removed, and drain.
	Draining []BackendName
}

// BackendName is a backend of a pool.
type BackendName struct {
	Pool string
	ID   model.BackendID
}

// Change applies mutations.
func (c *Client) Change(ctx context.Context, request *steelyardv1.ChangeRequest) (Outcome, error) {
	response, err := c.service.Change(ctx, request)
	if err != nil {
		return Outcome{}, decodeError(err)
	}
	return decodeOutcome(response)
}

// Status returns what is observed.
func (c *Client) Status(ctx context.Context) (model.Status, error) {
	response, err := c.service.Status(ctx, &steelyardv1.StatusRequest{})
	if err != nil {
		return model.Status{}, decodeError(err)
	}
	return decodeStatus(response)
}

func decodeError(err error) error {
	var unreachable *UnreachableError
	var answer *connect.Error
	switch {
	case errors.As(err, &unreachable):
		return unreachable
	case errors.As(err, &answer) && connect.IsWireError(err):
		return &Error{Code: answer.Code(), Message: answer.Message()}
	}
	return fmt.Errorf("talk to the daemon: %w", err)
}

func explainDial(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &UnreachableError{path, fmt.Sprintf("no daemon is listening on %s; start it with: steelyard daemon --interface NAME, or name its socket with --socket", path), true}
	case errors.Is(err, fs.ErrPermission):
		return &UnreachableError{path, fmt.Sprintf("no permission to use %s; %s", path, whoMay(path)), false}
	}
	return &UnreachableError{path, fmt.Sprintf("cannot connect to the daemon: %v", err), false}
}

// whoMay says who may use a socket, as far as can be seen from outside.
func whoMay(path string) string {
	const fallback = "run this as root"
	info, err := os.Stat(path)
	if err != nil {
		return fallback
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Gid == 0 {
		return fallback + ", or set api.group in the daemon's configuration to a group that you are in"
	}
	name := strconv.FormatUint(uint64(owner.Gid), 10)
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	return fmt.Sprintf("join the group %q, or run this as root", name)
}

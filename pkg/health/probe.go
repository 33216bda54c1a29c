package health

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// prober asks backends. It has no state: its methods may run at the same time.
// Each ends soon after its context does, with its socket closed.
type prober struct {
	// roots verify https servers; nil means the system's.
	roots *x509.CertPool
}

// probe runs one check once, within ctx.
func (p *prober) probe(ctx context.Context, t Target) outcome {
	switch t.Check.Type {
	case model.CheckTCP:
		return p.tcp(ctx, t)
	case model.CheckHTTP, model.CheckHTTPS:
		return p.http(ctx, t)
	case model.CheckUDP:
		return p.udp(ctx, t)
	case model.CheckICMP:
		return p.icmp(ctx, t)
	}
	return unable(fmt.Sprintf("there is no probe of type %v", t.Check.Type))
}

// connect opens a TCP connection that closes with a reset, so that thousands
// of probes leave no TIME_WAIT behind. Without a connection, the outcome says
// why.
func connect(ctx context.Context, to netip.AddrPort) (*net.TCPConn, outcome) {
	dialer := net.Dialer{KeepAlive: -1}
	conn, err := dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	if err != nil {
		return nil, unreached(err, "no answer to the connection attempt")
	}
	if err := conn.SetLinger(0); err != nil {
		conn.Close()
		return nil, unable("set linger: " + cause(err))
	}
	return conn, outcome{}
}

// bound makes the operations of conn fail with a timeout once ctx ends. The
// caller releases it before it closes conn.
func bound(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) (release func()) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		// A connection that refuses a deadline is closed or broken, and its
		// operations end without one.
		conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-ended
		}
	}
}

// unreached is the outcome of an error on layer 4; silence describes a timeout.
func unreached(err error, silence string) outcome {
	switch {
	case isOurs(err):
		return unable(cause(err))
	case isTimeout(err):
		return fail(L4TOUT, silence)
	}
	return fail(L4CON, cause(err))
}

// isOurs reports whether an error is this host's and not the backend's.
func isOurs(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EAGAIN,
		syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT, syscall.EPERM,
	} {
		// Not errors.Is, for which EACCES (a prohibiting route) is like EPERM.
		if code, ok := errors.AsType[syscall.Errno](err); ok && code == errno {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// cause puts an error into the words of its innermost layer: addresses and
// operations are known to whoever reads a check's status.
func cause(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "connection closed by the server"
	}
	return err.Error()
}

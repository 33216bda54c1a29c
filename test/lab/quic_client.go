package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// QUICConn is a QUIC connection from a host with one stream, which is a
// [net.Conn]. It can move to other addresses and ports. Its methods but those of
// the stream belong to one goroutine.
type QUICConn struct {
	quicStream
	host   *Host
	source netip.Addr
	paths  []quicPath // the last one is in use
	path   *quic.Path // of the last migration
}

// quicPath is a socket with all that quic-go needs for it.
type quicPath struct {
	socket    *rebindingConn
	transport *quic.Transport
}

// DialQUIC connects from the host, over QUIC version 2 if so asked, else 1. A
// valid source is the address to connect from. The server hears of the connection
// with the first write. The caller closes it.
func (h *Host) DialQUIC(ctx context.Context, target netip.AddrPort, source netip.Addr, v2 bool) (*QUICConn, error) {
	if !source.IsValid() {
		if source = netip.IPv4Unspecified(); target.Addr().Is6() {
			source = netip.IPv6Unspecified()
		}
	}
	c := &QUICConn{host: h, source: source}
	path, err := c.newPath()
	if err != nil {
		return nil, fmt.Errorf("on %s: dial %s: %w", h.Name, target, err)
	}
	config := &quic.Config{MaxIdleTimeout: quicIdle, HandshakeIdleTimeout: quicHandshake, Versions: []quic.Version{quic.Version1}}
	if v2 {
		config.Versions[0] = quic.Version2
	}
	c.conn, err = path.transport.Dial(ctx, net.UDPAddrFromAddrPort(target),
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{quicProtocol}}, config)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("on %s: dial QUIC %s: %w", h.Name, target, err), c.closePaths())
	}
	if c.Stream, err = c.conn.OpenStreamSync(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("on %s: open a stream to %s: %w", h.Name, target, err), c.Close())
	}
	return c, nil
}

func (c *QUICConn) newPath() (quicPath, error) {
	socket, err := newRebindingConn(c.listen)
	if err != nil {
		return quicPath{}, err
	}
	path := quicPath{socket, &quic.Transport{Conn: socket}}
	c.paths = append(c.paths, path)
	return path, nil
}

// listen makes a socket with a port that the kernel chooses.
func (c *QUICConn) listen() (*net.UDPConn, error) {
	return c.host.ListenUDP(netip.AddrPortFrom(c.source, 0))
}

// LocalAddr is what packets come from now. A client behind a NAT does not know it.
func (c *QUICConn) LocalAddr() net.Addr { return c.paths[len(c.paths)-1].socket.LocalAddr() }

// From makes the moves that come now begin at another address of the same family.
func (c *QUICConn) From(source netip.Addr) { c.source = source }

// Rebind gives the connection another port, without its knowledge: a NAT between
// it and the server has forgotten it. What is on the way to the old port is lost.
func (c *QUICConn) Rebind() error {
	if err := c.paths[len(c.paths)-1].socket.rebind(); err != nil {
		return fmt.Errorf("rebind a QUIC connection: %w", err)
	}
	return nil
}

// Migrate moves the connection to another socket as a client does that changes its
// network: it validates the new path, with another of the server's connection
// IDs, and then leaves the old one (RFC 9000, section 9).
func (c *QUICConn) Migrate(ctx context.Context) error {
	next, err := c.newPath()
	if err != nil {
		return fmt.Errorf("migrate a QUIC connection: %w", err)
	}
	path, err := c.conn.AddPath(next.transport)
	if err != nil {
		return fmt.Errorf("migrate a QUIC connection: %w", err)
	}
	if err := path.Probe(ctx); err != nil {
		return fmt.Errorf("migrate a QUIC connection: validate the path from %s: %w", next.socket.LocalAddr(), err)
	}
	if err := path.Switch(); err != nil {
		return fmt.Errorf("migrate a QUIC connection: %w", err)
	}
	// A path that is left gives its connection ID back: the server issues a few.
	former := c.path
	if c.path = path; former != nil {
		return former.Close()
	}
	return nil
}

// Close ends the connection, and tells the server.
func (c *QUICConn) Close() error {
	return errors.Join(c.conn.CloseWithError(0, ""), c.closePaths())
}

func (c *QUICConn) closePaths() error {
	var errs []error
	for _, path := range c.paths {
		errs = append(errs, path.transport.Close(), path.socket.Close())
	}
	return errors.Join(errs...)
}

// QUICAnswer is what [Echo] answered, and who.
type QUICAnswer struct {
	// Server is the name that the handler has.
	Server string `json:"server"`
	// Client is the address that the server sees the connection at.
	Client string `json:"client"`
}

// Ask sends a number to [Echo] and wants it back.
func (c *QUICConn) Ask(number uint64, patience time.Duration) (QUICAnswer, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return QUICAnswer{}, err
	}
	// As long as it takes to be told by a server that does not know the connection.
	if _, err := fmt.Fprintf(c, "%32d\n", number); err != nil {
		return QUICAnswer{}, err
	}
	var answer QUICAnswer
	var echoed uint64
	if _, err := fmt.Fscanln(c, &answer.Server, &answer.Client, &echoed); err != nil {
		return QUICAnswer{}, fmt.Errorf("no answer to %d: %w", number, err)
	}
	if echoed != number {
		return answer, fmt.Errorf("%s answered %d to %d", answer.Server, echoed, number)
	}
	return answer, nil
}

package lab

import (
	"net"
	"sync"
	"time"
)

// rebindingConn is a UDP socket that can be exchanged for another without its user
// noticing. What it hides from quic-go, that it is a [net.UDPConn], costs speed
// only.
type rebindingConn struct {
	listen func() (*net.UDPConn, error)

	mu       sync.Mutex // guards what follows
	socket   *net.UDPConn
	deadline time.Time // for reads
	closed   bool
}

func newRebindingConn(listen func() (*net.UDPConn, error)) (*rebindingConn, error) {
	socket, err := listen()
	if err != nil {
		return nil, err
	}
	return &rebindingConn{listen: listen, socket: socket}, nil
}

// rebind exchanges the socket.
func (c *rebindingConn) rebind() error {
	next, err := c.listen()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		next.Close()
		return net.ErrClosed
	}
	if err := next.SetReadDeadline(c.deadline); err != nil {
		next.Close()
		return err
	}
	former := c.socket
	c.socket = next
	return former.Close()
}

func (c *rebindingConn) current() *net.UDPConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.socket
}

// on does something with the socket, and again if that was exchanged meanwhile.
func (c *rebindingConn) on(do func(*net.UDPConn) error) error {
	socket := c.current()
	for {
		err := do(socket)
		next := c.current()
		if err == nil || next == socket {
			return err
		}
		socket = next
	}
}

func (c *rebindingConn) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	err = c.on(func(socket *net.UDPConn) error {
		n, from, err = socket.ReadFrom(b)
		return err
	})
	return n, from, err
}

func (c *rebindingConn) WriteTo(b []byte, to net.Addr) (n int, err error) {
	err = c.on(func(socket *net.UDPConn) error {
		n, err = socket.WriteTo(b, to)
		return err
	})
	return n, err
}

func (c *rebindingConn) LocalAddr() net.Addr { return c.current().LocalAddr() }

func (c *rebindingConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.socket.Close()
}

func (c *rebindingConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *rebindingConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.socket.SetReadDeadline(t)
}

// SetWriteDeadline holds for the present socket: writes of datagrams do not wait.
func (c *rebindingConn) SetWriteDeadline(t time.Time) error { return c.current().SetWriteDeadline(t) }

// SetReadBuffer holds for the present socket: quic-go asks for megabytes, but the few
// packets of a client need no more than the kernel gives every socket.
func (c *rebindingConn) SetReadBuffer(bytes int) error { return c.current().SetReadBuffer(bytes) }

// SetWriteBuffer holds for the present socket.
func (c *rebindingConn) SetWriteBuffer(bytes int) error { return c.current().SetWriteBuffer(bytes) }

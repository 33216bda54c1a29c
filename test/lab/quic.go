package lab

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/steelyard-lb/steelyard/pkg/quiclb"
)

const (
	// quicProtocol is what client and server agree on by ALPN.
	quicProtocol = "steelyard-lab"
	// quicIdle is how long a connection may be silent: for longer than any test,
	// because there are no keep-alives. Who waits for an answer says how long.
	quicIdle = 10 * time.Minute
	// quicHandshake is how long the other side may be silent before that: a busy
	// machine answers late.
	quicHandshake = 30 * time.Second
)

// QUICOptions describe a server of [Host.QUIC].
type QUICOptions struct {
	// Port that it listens on, on every address of both families.
	Port uint16
	// ServerID makes connection IDs routable (QUIC-LB): all carry it. Empty
	// leaves them to chance, as servers do that know nothing of load balancers.
	ServerID []byte
	// Config of the connection IDs, 0 to 6.
	Config uint8
	// Handle answers a connection's only stream and returns when it has ended.
	Handle func(net.Conn)
}

// QUICServer answers QUIC connections on a host, from within this process.
type QUICServer struct {
	socket    *net.UDPConn
	transport *quic.Transport
	listener  *quic.Listener
	handle    func(net.Conn)
	running   sync.WaitGroup

	mu   sync.Mutex // guards open; nil once the server has stopped
	open map[*quic.Conn]bool
}

// QUIC starts a server. The caller stops it.
func (h *Host) QUIC(o QUICOptions) (*QUICServer, error) {
	fail := func(err error) (*QUICServer, error) { return nil, fmt.Errorf("QUIC server on %s: %w", h.Name, err) }
	s := &QUICServer{handle: o.Handle, open: map[*quic.Conn]bool{}}
	security, err := quicCertificate(h.Name)
	if err != nil {
		return fail(err)
	}
	if s.socket, err = h.ListenUDP(netip.AddrPortFrom(netip.IPv6Unspecified(), o.Port)); err != nil {
		return fail(err)
	}
	s.transport = &quic.Transport{Conn: s.socket, StatelessResetKey: quicResetKey()}
	if len(o.ServerID) > 0 {
		if s.transport.ConnectionIDGenerator, err = newRoutableIDs(o.Config, o.ServerID); err != nil {
			return fail(errors.Join(err, s.socket.Close()))
		}
	}
	if s.listener, err = s.transport.Listen(security, &quic.Config{MaxIdleTimeout: quicIdle, HandshakeIdleTimeout: quicHandshake}); err != nil {
		return fail(errors.Join(err, s.socket.Close()))
	}
	s.running.Go(s.accept)
	return s, nil
}

// accept takes connections until the server stops.
func (s *QUICServer) accept() {
	for {
		conn, err := s.listener.Accept(context.Background())
		if err != nil {
			return // it was stopped: a listener knows no other error
		}
		s.mu.Lock()
		if s.open == nil {
			s.mu.Unlock()
			conn.CloseWithError(0, "stopped")
			return
		}
		s.open[conn] = true
		s.mu.Unlock()
		s.running.Go(func() {
			s.serve(conn)
			s.mu.Lock()
			delete(s.open, conn)
			s.mu.Unlock()
		})
	}
}

// serve answers the stream of a connection. The client closes the connection:
// what the server said last would be lost if it did so itself.
func (s *QUICServer) serve(conn *quic.Conn) {
	stream, err := conn.AcceptStream(context.Background())
	if err != nil {
		return
	}
	s.handle(&quicStream{stream, conn})
	stream.CancelRead(0)
	stream.Close()
	<-conn.Context().Done()
}

// Stop ends all connections, which their clients are told, and the server.
func (s *QUICServer) Stop() error {
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for conn := range open {
		conn.CloseWithError(0, "stopped")
	}
	err := errors.Join(s.listener.Close(), s.transport.Close(), s.socket.Close())
	s.running.Wait()
	return err
}

// quicStream is the only stream of a QUIC connection as a [net.Conn]. Close and
// CloseWrite are those of the stream: the connection outlives it.
type quicStream struct {
	*quic.Stream
	conn *quic.Conn
}

func (s *quicStream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr is where the client is now.
func (s *quicStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

func (s *quicStream) CloseWrite() error { return s.Stream.Close() }

// Echo returns a handler that answers each line with one of its own: its name, the
// address that it sees the client at, and the line.
func Echo(name string) func(net.Conn) {
	return func(conn net.Conn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if _, err := fmt.Fprintln(conn, name, conn.RemoteAddr(), lines.Text()); err != nil {
				return
			}
		}
	}
}

// routableIDs issues connection IDs that name a server, with random nonces.
type routableIDs struct {
	config   quiclb.Config
	serverID []byte
}

// nonceLength makes connection IDs unique enough, and as long as those of most servers.
const nonceLength = 6

func newRoutableIDs(config uint8, serverID []byte) (*routableIDs, error) {
	g := &routableIDs{quiclb.Config{ID: config, ServerIDLength: len(serverID), NonceLength: nonceLength}, serverID}
	return g, g.config.Validate()
}

// GenerateConnectionID implements [quic.ConnectionIDGenerator].
func (g *routableIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	nonce := make([]byte, g.config.NonceLength)
	rand.Read(nonce)
	cid, err := g.config.Encode(g.serverID, nonce)
	if err != nil {
		return quic.ConnectionID{}, err
	}
	return quic.ConnectionIDFromBytes(cid), nil
}

// ConnectionIDLen implements [quic.ConnectionIDGenerator].
func (g *routableIDs) ConnectionIDLen() int { return g.config.Length() }

// ListenUDP makes a socket on the host, at an address of its own. It may be used from
// any goroutine.
func (h *Host) ListenUDP(address netip.AddrPort) (socket *net.UDPConn, err error) {
	err = h.Do(func() error {
		socket, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
		return err
	})
	return socket, err
}

// quicResetKey is the same for all servers, as behind any balancer: one that gets a
// packet of a connection it does not know tells the client, as TCP does with a
// reset (RFC 9000, section 10.3). Packets shorter than 42 bytes get no such answer.
func quicResetKey() *quic.StatelessResetKey { return &quic.StatelessResetKey{'l', 'a', 'b'} }

// quicCertificate is for a name that nobody verifies: which backend answers is
// part of the answer.
func quicCertificate(name string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(24 * time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		NextProtos:   []string{quicProtocol},
	}, nil
}

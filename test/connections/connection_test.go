package connections_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// kind is what a connection does.
type kind byte

const (
	// talker sends a numbered record at every beat and wants it back.
	talker kind = 't'
	// download gets a numbered record at every beat; its client sends nothing
	// but acknowledgements.
	download kind = 'd'
	// idler is a talker that is silent for most of the run.
	idler kind = 'i'
	// visitor is a talker that closes after a few records, and wants to see
	// the server close too.
	visitor kind = 'v'
)

func (k kind) String() string {
	return map[kind]string{talker: "talker", download: "download", idler: "idler", visitor: "visitor"}[k]
}

const (
	// beat is the time from record to record.
	beat = 100 * time.Millisecond
	// visit is how many records a visitor exchanges.
	visit = 5
)

// stay is how many records a roaming client exchanges before it moves.
func (k kind) stay() uint64 {
	return map[kind]uint64{talker: 5, download: 20, idler: 1, visitor: 2}[k]
}

// A connection begins with one byte, its kind. Then the client sends records,
// and the server answers each with one of its own; to a download it sends them
// unasked, padded. All numbers are big endian.
const (
	askSize    = 32      // the record's number, from 0, and what makes it long enough for a stateless reset
	answerSize = 16      // the record's number; the server's
	paddedSize = 1 << 10 // of a download
	noServer   = 0       // servers count from 1
)

// server answers TCP connections to one port of a backend.
type server struct {
	host   *lab.Host
	port   uint16
	handle func(net.Conn)

	listener net.Listener
	running  sync.WaitGroup
	mu       sync.Mutex // guards open
	open     map[net.Conn]bool
}

// newServer starts a server; it stops when the test ends.
func newServer(t *testing.T, h *lab.Host, port uint16, handle func(net.Conn)) *server {
	t.Helper()
	s := &server{host: h, port: port, handle: handle, open: map[net.Conn]bool{}}
	s.listen(t)
	t.Cleanup(func() {
		s.refuse()
		s.mu.Lock()
		for conn := range s.open {
			conn.Close()
		}
		s.mu.Unlock()
		s.running.Wait()
	})
	return s
}

// listen accepts connections.
func (s *server) listen(t *testing.T) {
	t.Helper()
	err := s.host.Do(func() (err error) {
		s.listener, err = net.Listen("tcp", fmt.Sprintf(":%d", s.port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := s.listener
	s.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a client that gave up in the queue
			}
			s.mu.Lock()
			s.open[conn] = true
			s.mu.Unlock()
			s.running.Go(func() {
				s.handle(conn)
				conn.Close()
				s.mu.Lock()
				delete(s.open, conn)
				s.mu.Unlock()
			})
		}
	})
}

// refuse takes no more connections. Those that are open stay.
func (s *server) refuse() { s.listener.Close() }

// answer is the server's half of a connection. It ends when the client's does.
func answer(conn net.Conn, number uint64) {
	in := bufio.NewReader(conn)
	first, err := in.ReadByte()
	if err != nil {
		return
	}
	record := make([]byte, paddedSize)
	if kind(first) == download {
		binary.BigEndian.PutUint64(record[8:], number)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for n := uint64(0); err == nil; n++ {
			binary.BigEndian.PutUint64(record, n)
			_, err = conn.Write(record)
			<-tick.C
		}
		return
	}
	for {
		if _, err := io.ReadFull(in, record[:askSize]); err != nil {
			return
		}
		binary.BigEndian.PutUint64(record[8:], number)
		if _, err := conn.Write(record[:answerSize]); err != nil {
			return
		}
	}
}

// connection is the client's half, and what became of it.
type connection struct {
	kind   kind
	source netip.Addr
	v2     bool // QUIC version 2
	opened time.Time

	records atomic.Uint64 // that came in
	done    chan struct{} // closed when it has ended

	// Valid once done is closed.
	err    error // why it broke
	server uint64
	local  net.Addr
	ended  time.Time
}

func (c *connection) String() string {
	return fmt.Sprintf("%s from %v to backend%d, after %d records in %v: %v",
		c.kind, c.local, c.server, c.records.Load(), c.ended.Sub(c.opened).Round(time.Millisecond), c.err)
}

// broken is whether it ended otherwise than it should. Valid once done is closed.
func (c *connection) broken() bool { return c.err != nil }

// run holds the connection until the load stops, or it breaks.
func (c *connection) run(ctx context.Context, l *load) error {
	conn, err := l.dial(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		c.local = conn.LocalAddr()
		conn.Close()
	}()
	if _, err := conn.Write([]byte{byte(c.kind)}); err != nil {
		return err
	}
	switch c.kind {
	case download:
		return c.receive(l, conn)
	case idler:
		return c.talk(l, conn, l.silence)
	default:
		return c.talk(l, conn, beat)
	}
}

// receive is a download.
func (c *connection) receive(l *load, conn net.Conn) error {
	record := make([]byte, paddedSize)
	for number := uint64(0); ; number++ {
		if err := c.roam(l, conn, number); err != nil {
			return err
		}
		if err := c.read(l, conn, record, number); err != nil {
			return err
		}
		select {
		case <-l.stop:
			return nil
		default:
		}
	}
}

// talk exchanges a record at every tick.
func (c *connection) talk(l *load, conn net.Conn, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	record := make([]byte, askSize)
	wake := l.wake
	for number := uint64(0); c.kind != visitor || number < visit; number++ {
		if err := c.roam(l, conn, number); err != nil {
			return err
		}
		binary.BigEndian.PutUint64(record, number)
		if _, err := conn.Write(record[:askSize]); err != nil { // into the socket's buffer
			return err
		}
		if err := c.read(l, conn, record[:answerSize], number); err != nil {
			return err
		}
		select {
		case <-l.stop:
			return nil
		case <-wake:
			wake = nil // once
		case <-tick.C:
		}
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(l.stall)); err != nil {
		return err
	}
	if n, err := conn.Read(record); n != 0 || err != io.EOF {
		return fmt.Errorf("after its end: %d bytes more, %v", n, err)
	}
	return nil
}

// roam moves the client when it is time: to another port without its knowledge, or,
// because nothing would come from there, a download's by its own will.
func (c *connection) roam(l *load, conn net.Conn, number uint64) error {
	if l.transport != roaming || number == 0 || number%c.kind.stay() != 0 {
		return nil
	}
	client := conn.(*lab.QUICConn)
	if c.kind != download {
		return client.Rebind()
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.stall)
	defer cancel()
	return client.Migrate(ctx)
}

// read gets the record of that number, from the server that sent the first.
func (c *connection) read(l *load, conn net.Conn, record []byte, number uint64) error {
	if err := conn.SetReadDeadline(time.Now().Add(l.stall)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, record); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(record); got != number {
		return fmt.Errorf("record %d came in place of %d", got, number)
	}
	server := binary.BigEndian.Uint64(record[8:])
	if c.server == noServer {
		c.server = server
	}
	if server != c.server {
		return fmt.Errorf("backend%d answered", server)
	}
	c.records.Add(1)
	return nil
}

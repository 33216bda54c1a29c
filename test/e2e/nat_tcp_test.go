package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestNAT has ordinary web servers, on a port of their own, behind VIPs of both modes:
// who is seen to ask whom, and that what is large arrives as it was sent, both ways.
func TestNAT(t *testing.T) {
	t.Parallel()
	for interfaces := 1; interfaces <= 2; interfaces++ {
		t.Run(fmt.Sprintf("%d-interfaces", interfaces), func(t *testing.T) {
			t.Parallel()
			eachNAT(t, lab.Options{Interfaces: interfaces}, setup{}, func(r *rig, ways []way) {
				r.addNATPools()
				r.addNATVIPs(ways)
				want, file := r.randomBig(largeBytes), randomFile(r.t, largeBytes)
				for _, w := range ways {
					r.t.Run(w.name, func(t *testing.T) {
						on := r.within(t)
						if answers := on.fetch(w.vip, 200); len(answers) != len(on.Backends) {
							t.Errorf("answers come from %v", answers)
						}
						on.seen(w)
						on.upload(w.vip, file, w.name)
						out, err := on.Client.Command("curl", "-sS", "--max-time", "60", url(w.vip, "/upload/random")).Output()
						if got := fmt.Sprintf("%x", sha256.Sum256(out)); err != nil || got != want {
							t.Errorf("%d of %d bytes arrived, digest %s, want %s: %v", len(out), largeBytes, got, want, err)
						}
					})
				}
				r.dropsNothing()
			})
		})
	}
}

// seen looks at the addresses that web servers see: nat leaves the client's, under
// fullnat it is one of the balancer's. They were asked at their own address and port.
func (r *rig) seen(w way) {
	r.t.Helper()
	const n = 100
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	clients := r.Client.Fetch(ctx, url(w.vip, "/client"), n, 8)
	if clients.Good() != n {
		r.t.Errorf("%d of %d requests were answered: %v", clients.Good(), n, clients.Failures)
	}
	sources := map[netip.Addr]bool{}
	for i := range 255 {
		sources[source(w.vip, i)] = true
	}
	for text := range clients.Bodies {
		address, err := netip.ParseAddr(text)
		if w.mode == "nat" && !sources[address] || w.mode == "fullnat" && !snatOf(w.pool).Contains(address) || err != nil {
			r.t.Errorf("a client is seen as %s", text)
		}
	}
	if want := map[string]int{"nat": n, "fullnat": 4}[w.mode]; len(clients.Bodies) != want {
		r.t.Errorf("%d clients are seen as %d, want %d", n, len(clients.Bodies), want)
	}
	of := map[string]func(*lab.Host) netip.Addr{"v4": v4, "v6": v6}[w.pool]
	servers := r.Client.Fetch(ctx, url(w.vip, "/server"), n, 8)
	for _, b := range r.Backends {
		delete(servers.Bodies, fmt.Sprintf("%s %d", of(b), natPort))
	}
	if len(servers.Bodies) > 0 || servers.Failed() > 0 {
		r.t.Errorf("servers were asked as %v; failed: %v", servers.Bodies, servers.Failures)
	}
}

// dropsNothing makes sure that no packet was dropped so far.
func (r *rig) dropsNothing() {
	r.t.Helper()
	for reason, packets := range r.status().Reasons {
		if strings.HasPrefix(reason, "drop_") && packets > 0 {
			r.t.Errorf("%d packets are %s", packets, reason)
		}
	}
}

// TestNATHalfClosed closes one direction of connections and goes on with the other.
func TestNATHalfClosed(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Backends: 2}, setup{}, func(r *rig, ways []way) {
		data := make([]byte, 8<<20)
		rand.Read(data)
		want := fmt.Sprintf("%x\n", sha256.Sum256(data))
		// Asked with 'l', it listens to the end and answers then; else it says everything
		// first, and listens then. What it heard it says by its digest.
		heard := make(chan string, 1)
		r.accept(servicePort, func(_ *lab.Host, conn *net.TCPConn) {
			first := make([]byte, 1)
			if _, err := io.ReadFull(conn, first); err != nil {
				return
			}
			if first[0] == 'l' {
				got, err := digest(conn)
				fmt.Fprintf(conn, "%s\n", got)
				_, sent := conn.Write(data)
				if err := errors.Join(err, sent); err != nil {
					fmt.Fprintf(conn, "%v\n", err)
				}
				return
			}
			_, sent := conn.Write(data)
			closed := conn.CloseWrite()
			got, err := digest(conn)
			if err := errors.Join(sent, closed, err); err != nil {
				got = err.Error()
			}
			heard <- got + "\n"
		})
		r.addPortPools("half", servicePort)
		for i, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				on.addVIP(w.name, w.vip, w.mode, "half"+w.pool)
				on.clientClosesFirst(w.vip, i, data, want)
				on.serverClosesFirst(w.vip, i, data, want, heard)
			})
		}
	})
}

func (r *rig) clientClosesFirst(vip netip.Addr, i int, data []byte, want string) {
	r.t.Helper()
	conn := r.dialTCP(netip.AddrPortFrom(vip, 80), 10+i)
	r.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err := conn.Write(append([]byte("l"), data...))
	r.must(err)
	r.must(conn.CloseWrite())
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(got, []byte(want)) || !bytes.Equal(got[len(want):], data) {
		r.t.Errorf("the client closed first: %d bytes of the answer, which has %d: %v", len(got), len(want)+len(data), err)
	}
}

func (r *rig) serverClosesFirst(vip netip.Addr, i int, data []byte, want string, heard <-chan string) {
	r.t.Helper()
	conn := r.dialTCP(netip.AddrPortFrom(vip, 80), 20+i)
	r.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err := conn.Write([]byte("s"))
	r.must(err)
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
		r.t.Errorf("the server closed first: %d bytes of %d: %v", len(got), len(data), err)
	}
	_, err = conn.Write(data)
	r.must(err)
	r.must(conn.CloseWrite())
	select {
	case got := <-heard:
		if got != want {
			r.t.Errorf("after it had closed, the server heard %q, want %q", got, want)
		}
	case <-time.After(patience):
		r.t.Error("the server did not hear the client's end")
	}
}

// TestNATResets sees resets arrive at the other side, in both directions, and a
// refusal by a backend at the client.
func TestNATResets(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Backends: 2}, setup{}, func(r *rig, ways []way) {
		ended := make(chan error, 1)
		var resets atomic.Bool // whether the server is who resets
		r.accept(servicePort, func(_ *lab.Host, conn *net.TCPConn) {
			echoed := make([]byte, 1)
			if _, err := io.ReadFull(conn, echoed); err == nil && resets.Load() {
				conn.SetLinger(0)
				return
			}
			conn.Write(echoed) // whether it arrives is what the client finds out
			_, err := conn.Read(echoed)
			ended <- err
		})
		r.addPortPools("open", servicePort)
		r.addPortPools("closed", servicePort+1)
		for i, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				on.addVIP(w.name, w.vip, w.mode, "closed"+w.pool)
				if err := on.connect(w.vip, patience); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("nobody listens: %v", err)
				}
				on.cli("vip", "set", w.name, "--pool", "open"+w.pool)
				resets.Store(false)
				conn := on.askByte(w.vip, 10+i)
				if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
					t.Errorf("no echo: %v", err)
				}
				on.must(conn.SetLinger(0))
				on.must(conn.Close())
				select {
				case err := <-ended:
					if !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("the server of a client that reset got %v", err)
					}
				case <-time.After(patience):
					t.Error("a client's reset does not come to the server")
				}
				resets.Store(true)
				if _, err := on.askByte(w.vip, 20+i).Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("the client of a server that reset got %v", err)
				}
			})
		}
	})
}

// askByte connects and sends one byte.
func (r *rig) askByte(vip netip.Addr, i int) *net.TCPConn {
	r.t.Helper()
	conn := r.dialTCP(netip.AddrPortFrom(vip, 80), i)
	r.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err := conn.Write([]byte("?"))
	r.must(err)
	return conn
}

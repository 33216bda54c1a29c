package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// A process may have too few files open for a crowd of connections. So this program
// runs several times, in roles, which it is told by its environment:
//
//	serve PORT               echoes what connections to a port say, in nonces
//	hold TARGET FIRST COUNT  opens so many connections to a target when it reads
//	                         "open", and asks over each when it reads "talk"; their
//	                         numbers, from FIRST on, are what they say
//
// Each says in one line what came of it. They end with their input, or at the latest
// after roleLimit.
const (
	roleVariable = "STEELYARD_E2E_ROLE"
	roleLimit    = 3 * time.Minute
	nonceBytes   = 16
	// bufferBytes is what a connection asks the kernel for, each way; it gives some more.
	bufferBytes = 4096
	// holders dial at once, each so many connections.
	dialing = 32
)

// play is the main function of a role.
func play(args []string) int {
	time.AfterFunc(roleLimit, func() { os.Exit(1) })
	numbers := make([]int, len(args))
	for i, arg := range args {
		numbers[i], _ = strconv.Atoi(arg) // names are 0
	}
	switch {
	case args[0] == "serve" && len(args) == 2:
		if err := serveNonces(numbers[1]); err != nil {
			fmt.Println(err)
			return 1
		}
	case args[0] == "hold" && len(args) == 4:
		hold(netip.MustParseAddrPort(args[1]), numbers[2], numbers[3])
	default:
		return 2
	}
	return 0
}

func smallBuffers(_, _ string, raw syscall.RawConn) (err error) {
	failed := raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, bufferBytes)
			}
		}
	})
	if err == nil {
		err = failed
	}
	return err
}

func serveNonces(port int) error {
	config := net.ListenConfig{Control: smallBuffers}
	listener, err := config.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				continue // its client has given up
			}
			go func() {
				defer conn.Close()
				nonce := make([]byte, nonceBytes)
				for {
					if _, err := io.ReadFull(conn, nonce); err != nil {
						return
					}
					if _, err := conn.Write(nonce); err != nil {
						return
					}
				}
			}()
		}
	}()
	fmt.Println("serving")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func hold(target netip.AddrPort, first, count int) {
	conns := make([]net.Conn, count)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(round(conns, func(i int) (err error) {
			if lines.Text() == "open" {
				dialer := net.Dialer{
					Timeout: patience, Control: smallBuffers,
					LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source(target.Addr(), 1+(first+i)%250), 0)),
				}
				if conns[i], err = dialer.Dial("tcp", target.String()); err != nil {
					return err
				}
			}
			return exchange(conns[i], first+i)
		}))
	}
}

// round does something with all connections, and says in a line how many failed.
func round(conns []net.Conn, do func(i int) error) string {
	var next, failed atomic.Int64
	var why sync.Once
	var because string
	var workers sync.WaitGroup
	for range dialing {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(conns)); i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					failed.Add(1)
					why.Do(func() { because = err.Error() })
				}
			}
		})
	}
	workers.Wait()
	return fmt.Sprintf("%d failed %s", failed.Load(), because)
}

// exchange sends a nonce that no other connection has, and wants it back.
func exchange(conn net.Conn, number int) error {
	if conn == nil {
		return net.ErrClosed
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	nonce, got := fmt.Appendf(nil, "%08x%08x", number, uint32(time.Now().UnixNano())), make([]byte, nonceBytes)
	if _, err := conn.Write(nonce); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != string(nonce) {
		return fmt.Errorf("connection %d got %s back for %s", number, got, nonce)
	}
	return nil
}

// actor is a process in a role.
type actor struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// act starts a role on a host. It ends with the test.
func (r *rig) act(h *lab.Host, role ...string) *actor {
	r.t.Helper()
	self, err := os.Executable()
	r.must(err)
	cmd := h.Command(self, role...)
	cmd.Env = append(cmd.Env, roleVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	r.must(err)
	out, err := cmd.StdoutPipe()
	r.must(err)
	r.must(cmd.Start())
	r.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			r.t.Errorf("%v on %s: %v", role, h.Name, err)
		}
	})
	return &actor{in, bufio.NewReader(out)}
}

// hears the next line that an actor says.
func (r *rig) hears(a *actor) string {
	r.t.Helper()
	line, err := a.out.ReadString('\n')
	r.must(err)
	return line
}

// tell says a line to actors, and returns when all have answered as they should.
func (r *rig) tell(actors []*actor, line string) {
	r.t.Helper()
	for _, a := range actors {
		_, err := fmt.Fprintln(a.in, line)
		r.must(err)
	}
	for i, a := range actors {
		if said := r.hears(a); said != "0 failed \n" {
			r.t.Errorf("%s, number %d: %s", line, i, said)
		}
	}
}

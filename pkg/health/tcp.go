package health

import (
	"context"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// tcp passes when the connection is accepted. It asks the kernel for no more than
// that takes, for there may be many thousand such probes a second: a [net.Dialer]
// makes twice the system calls, and a goroutine to watch ctx.
func (p *prober) tcp(ctx context.Context, t Target) outcome {
	const silence = "no answer to the connection attempt"
	if ctx.Err() != nil {
		return unreached(ctx.Err(), silence)
	}
	fd, err := openTCP(t.Backend.Address)
	if err != nil {
		return unable(cause(err))
	}
	err = unix.Connect(fd, socketAddress(t.Endpoint()))
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return unreached(err, silence)
	}
	socket := os.NewFile(uintptr(fd), "tcp")
	defer socket.Close()
	if err := connected(ctx, socket); err != nil {
		return unreached(err, silence)
	}
	return pass(L4OK, "connection accepted")
}

// openTCP opens a socket that never blocks, and closes with a reset: thousands of
// probes leave no TIME_WAIT behind.
func openTCP(to netip.Addr) (int, error) {
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// connected waits until a connection attempt has come to an end, and returns how.
func connected(ctx context.Context, socket *os.File) error {
	defer bound(ctx, socket)()
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failure = err
		case code != 0:
			failure = unix.Errno(code)
		default:
			// There may be nothing to know yet.
			_, err := unix.Getpeername(int(fd))
			return err == nil
		}
		return true
	})
	if failure != nil {
		return failure
	}
	return err
}

func socketAddress(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
}

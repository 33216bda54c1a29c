package neighbor

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// receiveBuffer in bytes holds some ten thousand notifications: a burst of the
// size of the largest neighbour table that is likely.
const receiveBuffer = 8 << 20

// notice is what one read from the subscription gave.
type notice struct {
	messages []syscall.NetlinkMessage
	// lost says that the kernel dropped notifications before this one.
	lost bool
	// err ends the subscription.
	err error
}

// groups are everything that can change a Hop. RTNLGRP_NEXTHOP is the last
// that fits into the mask.
const groups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NEIGH-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1) |
	1<<(unix.RTNLGRP_NEXTHOP-1)

// subscription is one netlink socket for all groups, so that notifications
// arrive in the kernel's order.
type subscription struct {
	file *os.File
	conn syscall.RawConn
	// datagram is what one read fills; the kernel sends at most 32 KiB in one.
	datagram []byte
}

// subscribe opens the socket in the calling thread's network namespace.
func subscribe(buffer int) (*subscription, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &subscription{file: os.NewFile(uintptr(fd), "netlink"), datagram: make([]byte, 64<<10)}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		s.close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := s.setBuffer(buffer); err != nil {
		s.close()
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		s.close()
		return nil, fmt.Errorf("subscribe to routing changes: %w", err)
	}
	return s, nil
}

func (s *subscription) setBuffer(size int) error {
	var err error
	controlErr := s.conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	})
	if err = cmp.Or(controlErr, err); err != nil {
		return fmt.Errorf("set the receive buffer of a netlink socket (needs CAP_NET_ADMIN): %w", err)
	}
	return nil
}

// close also ends a receive that waits.
func (s *subscription) close() { s.file.Close() }

// receive waits for notifications.
func (s *subscription) receive() notice {
	var size int
	var from unix.Sockaddr
	var err error
	readErr := s.conn.Read(func(fd uintptr) bool {
		size, from, err = unix.Recvfrom(int(fd), s.datagram, 0)
		return err != unix.EAGAIN
	})
	if readErr == nil && err == unix.ENOBUFS {
		return notice{lost: true, err: s.drain()}
	}
	if err = cmp.Or(readErr, err); err != nil {
		return notice{err: fmt.Errorf("read routing changes: %w", err)}
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != nl.PidKernel {
		return notice{}
	}
	messages, err := syscall.ParseNetlinkMessage(slices.Clone(s.datagram[:size]))
	if err != nil {
		return notice{lost: true}
	}
	return notice{messages: messages}
}

// drain empties a socket that ran over. Until it was empty once, the kernel
// drops further notifications without saying so again (netlink_overrun in its
// net/netlink/af_netlink.c), so only a look at everything that comes later
// than that misses nothing.
func (s *subscription) drain() error {
	return s.conn.Read(func(fd uintptr) bool {
		for {
			if _, _, err := unix.Recvfrom(int(fd), s.datagram, 0); err != nil && err != unix.ENOBUFS {
				return true
			}
		}
	})
}

// watch forwards notifications until done is closed or the socket fails. A
// receive buffer that ran over loses notifications, not the subscription.
func (s *subscription) watch(out chan<- notice, done <-chan struct{}) {
	for {
		n := s.receive()
		select {
		case out <- n:
		case <-done:
			return
		}
		if n.err != nil {
			return
		}
	}
}

// routePrefix is the destination of a route notification. It is false for
// what is no route of the routing tables.
func routePrefix(message []byte) (netip.Prefix, bool) {
	if len(message) < unix.SizeofRtMsg {
		return netip.Prefix{}, false
	}
	header := nl.DeserializeRtMsg(message)
	dst := netip.IPv4Unspecified()
	switch {
	case header.Flags&unix.RTM_F_CLONED != 0:
		return netip.Prefix{}, false
	case header.Family == unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	case header.Family != unix.AF_INET:
		return netip.Prefix{}, false
	}
	attrs, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return netip.Prefix{}, false
	}
	for _, attr := range attrs {
		if attr.Attr.Type != unix.RTA_DST {
			continue
		}
		addr, ok := netip.AddrFromSlice(attr.Value)
		if !ok {
			return netip.Prefix{}, false
		}
		dst = addr
	}
	prefix := netip.PrefixFrom(dst, int(header.Dst_len))
	return prefix, prefix.IsValid()
}

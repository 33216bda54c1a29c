package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode lets the owner and one group in: whoever may talk to the daemon may
// change everything.
const socketMode = 0o660

// answerTime is how long a daemon that is there may take to accept.
const answerTime = time.Second

// Listen makes the API's unix socket at an absolute path, with the directory that
// it lies in, mode 0660, and owned by a group, which is a name, a number, or ""
// for the process's own. A socket that nobody listens on any more is replaced.
// Closing the listener removes the socket.
func Listen(path, group string) (net.Listener, error) {
	gid, err := lookUpGroup(group)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	// The mode that a socket has when it is bound is that of the file it makes, so
	// there is no moment at which it is open to more than its owner.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failure error
		err := c.Control(func(fd uintptr) { failure = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failure)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	if err := openTo(path, group, gid); err != nil {
		return nil, errors.Join(fmt.Errorf("API socket: %w", err), l.Close())
	}
	return l, nil
}

// lookUpGroup returns a group's number, or -1 for "".
func lookUpGroup(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("API socket: there is no group %q on this host; create it with: groupadd --system %s", group, group)
	}
	return strconv.Atoi(g.Gid)
}

// removeStale removes a socket that a daemon left behind, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; remove it, or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, answerTime)
	if err == nil {
		return errors.Join(fmt.Errorf("another daemon is listening on %s; stop it first, or choose another path", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another daemon is listening: %w", err)
	}
	return os.Remove(path)
}

func openTo(path, group string, gid int) error {
	if gid >= 0 {
		if err := os.Lchown(path, -1, gid); err != nil {
			return fmt.Errorf("give it to group %s: %w", group, err)
		}
	}
	return os.Chmod(path, socketMode)
}

package api_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/api"
)

func TestSocketPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "steelyard", "api.sock")
	l, err := api.Listen(path, "nogroup")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v", info.Mode())
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 65534 {
		t.Errorf("group %d", gid)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket outlives its listener: %v", err)
	}
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "busy.sock")
	l, err := api.Listen(busy, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, row := range map[string]struct{ path, group, want string }{
		"no such group":  {filepath.Join(dir, "a.sock"), "no-such-group", `there is no group "no-such-group" on this host; create it with`},
		"another daemon": {busy, "", "another daemon is listening on " + busy},
		"not a socket":   {file, "", file + " exists and is not a socket"},
		"no directory":   {filepath.Join(file, "a.sock"), "", "not a directory"},
		"path too long":  {filepath.Join(dir, strings.Repeat("x", 120)), "", "invalid argument"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := api.Listen(row.path, row.group)
			if err == nil {
				l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %v, want %q", err, row.want)
			}
		})
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file is %q, %v", content, err)
	}
	if conn, err := net.Dial("unix", busy); err != nil {
		t.Errorf("the daemon that was there lost its socket: %v", err)
	} else {
		conn.Close()
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	l, err := api.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	client := api.NewClient(path)
	defer client.Close()
	_, err := client.Status(t.Context())
	var unreachable *api.UnreachableError
	if !errors.As(err, &unreachable) || !unreachable.NoDaemon || !strings.Contains(err.Error(), "no daemon is listening on "+path+"; start it with: steelyard daemon") {
		t.Errorf("error %v", err)
	}
}

// TestNoPermission runs itself as nobody, because root may connect to everything.
func TestNoPermission(t *testing.T) {
	if path := os.Getenv("SOCKET_TO_TRY"); path != "" {
		client := api.NewClient(path)
		defer client.Close()
		_, err := client.Status(t.Context())
		var unreachable *api.UnreachableError
		if !errors.As(err, &unreachable) || unreachable.NoDaemon || !strings.Contains(err.Error(), `join the group "adm"`) {
			t.Errorf("error %v", err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "steelyard-api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	l, err := api.Listen(path, "adm")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	program := filepath.Join(dir, "test")
	if binary, err := os.ReadFile("/proc/self/exe"); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(program, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestNoPermission$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SOCKET_TO_TRY="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

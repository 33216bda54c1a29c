package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// readyPatience is how long a server may take until it answers.
const readyPatience = 15 * time.Second

// Site is what a web server answers:
//
//	/, /healthz   Body and a newline; /healthz status 503 while the host is sick,
//	              see [Host.Sick]
//	/client       the address that the client is seen to come from
//	/server       the address and the port that the client has connected to
//	/big          BigBytes bytes
//	/upload/NAME  takes what is put there, see [Host.Uploaded]
//
// The header X-Host of an answer is Body.
type Site struct {
	// Ports to listen on, on every address of both families; none means 80.
	Ports []uint16
	// Body is a line of text; empty means the host's name.
	Body string
	// BigBytes is the size of /big; 0 means that it is not there.
	BigBytes int64
}

// Nginx starts a web server and returns when it answers.
func (h *Host) Nginx(ctx context.Context, site Site) (*Process, error) {
	if len(site.Ports) == 0 {
		site.Ports = []uint16{80}
	}
	if site.Body == "" {
		site.Body = h.Name
	}
	if strings.ContainsAny(site.Body, "\"\\$\n") {
		return nil, fmt.Errorf("nginx on %s: body %q: want one line without quotes, backslashes and dollars", h.Name, site.Body)
	}
	dir := filepath.Join(h.Dir(), "nginx")
	if err := site.write(dir); err != nil {
		return nil, fmt.Errorf("nginx on %s: %w", h.Name, err)
	}
	p, err := h.Start("nginx", "nginx", "-p", dir, "-e", "error.log", "-c", "nginx.conf")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	err = p.WaitReady(ctx, func() error {
		for _, port := range site.Ports {
			for _, loopback := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
				conn, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(loopback, port).String(), netip.Addr{})
				if err != nil {
					return err
				}
				conn.Close()
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// write puts the configuration and the big file into a directory.
func (s Site) write(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "www", "upload"), 0o755); err != nil {
		return err
	}
	big := filepath.Join(dir, "www", "big")
	if s.BigBytes > 0 {
		if err := os.WriteFile(big, nil, 0o644); err != nil {
			return err
		}
		if err := os.Truncate(big, s.BigBytes); err != nil {
			return err
		}
	} else if err := os.RemoveAll(big); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(s.config(dir)), 0o644)
}

func (s Site) config(dir string) string {
	var b strings.Builder
	// One worker: the machine's cores are for what is tested.
	fmt.Fprintf(&b, `daemon off;
user root;
worker_processes 1;
pid %[1]s/nginx.pid;
events { worker_connections 4096; }
http {
	access_log off;
	default_type text/plain;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
`, dir)
	for _, port := range s.Ports {
		fmt.Fprintf(&b, "\t\tlisten 0.0.0.0:%[1]d backlog=4096;\n\t\tlisten [::]:%[1]d backlog=4096;\n", port)
	}
	fmt.Fprintf(&b, `		root %[1]s/www;
		location = / { return 200 "%[2]s\n"; }
		location = /healthz {
			if (-f %[1]s/sick) { return 503; }
			return 200 "%[2]s\n";
		}
		location = /client { return 200 "$remote_addr\n"; }
		location = /server { return 200 "$server_addr $server_port\n"; }
		location /upload/ { client_max_body_size 0; dav_methods PUT; }
		add_header X-Host "%[2]s" always;
	}
}
`, dir, s.Body)
	return b.String()
}

// Uploaded is the file that the web server of a host keeps an upload in.
func (h *Host) Uploaded(name string) string {
	return filepath.Join(h.Dir(), "nginx", "www", "upload", name)
}

// Sick makes the web server of a host answer /healthz with status 503, or no
// longer. Everything else it answers as ever, and it remembers when it is
// started again.
func (h *Host) Sick(sick bool) error {
	file := filepath.Join(h.Dir(), "nginx", "sick")
	if sick {
		return os.WriteFile(file, nil, 0o644)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

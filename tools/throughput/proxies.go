package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// openNginx puts nginx in the balancer's place, which passes streams on.
func openNginx(ctx context.Context, s *site) (*way, error) {
	var servers strings.Builder
	for _, b := range s.addresses() {
		fmt.Fprintf(&servers, "\t\tserver %s:80;\n", b)
	}
	config := fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes auto;
pid %[1]s/nginx.pid;
events { worker_connections 4096; }
stream {
	upstream web {
%[2]s	}
	server {
		listen %[3]s:80 backlog=4096;
		proxy_pass web;
	}
}
`, s.Balancer.Dir(), servers.String(), s.vip)
	return openProxy(ctx, s, config, "nginx", "-p", s.Balancer.Dir(), "-e", "error.log", "-c")
}

// openHAProxy puts HAProxy there, in TCP mode.
func openHAProxy(ctx context.Context, s *site) (*way, error) {
	var servers strings.Builder
	for i, b := range s.addresses() {
		fmt.Fprintf(&servers, "\tserver backend%d %s:80\n", 1+i, b)
	}
	config := fmt.Sprintf(`global
	maxconn 8192
defaults
	mode tcp
	timeout connect 5s
	timeout client 60s
	timeout server 60s
listen web
	bind %s:80 backlog 4096
	balance roundrobin
%s`, s.vip, servers.String())
	return openProxy(ctx, s, config, "haproxy", "-db", "-f")
}

// openProxy gives the balancer the VIP's address and starts a proxy on it. The name of its
// configuration is the last argument.
func openProxy(ctx context.Context, s *site, config, command string, args ...string) (w *way, err error) {
	w = &way{targets: []netip.Addr{s.vip}, passed: s.received}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	address := func(verb string) error {
		_, err := s.Balancer.Run("ip", "address", verb, s.vip.String()+"/32", "dev", "lo")
		return err
	}
	if err := address("add"); err != nil {
		return w, err
	}
	w.later(func() error { return address("delete") })
	file, err := s.write(command+".conf", config)
	if err != nil {
		return w, err
	}
	proxy, err := s.Balancer.Start(command, command, append(args, file)...)
	if err != nil {
		return w, err
	}
	w.later(proxy.Stop)
	return w, s.answerThrough(s.Router)
}

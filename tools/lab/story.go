package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// service is a VIP of the demonstration and the pool behind it.
type service struct {
	vip, pool, mode string
	address         netip.Addr
	backend         func(*lab.Host) netip.Addr
}

func (s service) url(path string) string {
	if s.address.Is6() {
		return "http://[" + s.address.String() + "]" + path
	}
	return "http://" + s.address.String() + path
}

// story builds the lab step by step and says what it does.
type story struct {
	ctx     context.Context
	w       *world
	topic   topic
	lab     *lab.Lab
	daemon  *lab.Daemon
	servers map[*lab.Host]*lab.Process
	step    int
}

// newStory begins with the namespaces. The caller closes the lab.
func newStory(ctx context.Context, w *world) (*story, error) {
	about, known := topicOf(w.mode)
	if !known {
		return nil, fmt.Errorf("--mode %s: want %s", w.mode, modes)
	}
	if err := w.preflight(); err != nil {
		return nil, err
	}
	w.options.Return = about.returns
	s := &story{ctx: ctx, w: w, topic: about, servers: map[*lab.Host]*lab.Process{}}
	s.title("Build a network: a client, a balancer and %d backends, each in a network namespace", w.options.Backends)
	l, err := lab.New(w.options)
	if err != nil {
		return nil, err
	}
	s.lab = l
	s.picture()
	return s, nil
}

// title begins the next step.
func (s *story) title(format string, args ...any) {
	s.step++
	fmt.Fprintf(s.w.out, "\n%d. %s\n", s.step, fmt.Sprintf(format, args...))
}

// say prints lines of plain words.
func (s *story) say(format string, args ...any) {
	s.indent(fmt.Sprintf(format, args...))
}

func (s *story) indent(text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		if line != "" {
			line = "   " + line
		}
		fmt.Fprintln(s.w.out, line)
	}
}

// show prints a command as it would be typed on a host.
func (s *story) show(host *lab.Host, args ...string) {
	s.say("%s$ %s", host.Name, strings.Join(args, " "))
}

// run shows a command on a host, runs it and shows what it prints.
func (s *story) run(host *lab.Host, args ...string) error {
	if err := s.ctx.Err(); err != nil {
		return context.Cause(s.ctx)
	}
	s.show(host, args...)
	out, err := host.Run(args[0], args[1:]...)
	if out != "" {
		s.indent(out)
	}
	return err
}

// steelyard shows and runs a command of the CLI.
func (s *story) steelyard(args ...string) error {
	if err := s.ctx.Err(); err != nil {
		return context.Cause(s.ctx)
	}
	s.show(s.lab.Balancer, append([]string{"steelyard"}, args...)...)
	out, err := s.daemon.CLI(args...)
	if out != "" {
		s.indent(out)
	}
	return err
}

func (s *story) picture() {
	l := s.lab
	if l.Interfaces == 1 {
		s.say("client ── router ── switch ─┬─ balancer")
		for i, b := range l.Backends {
			branch := "├"
			if i == len(l.Backends)-1 {
				branch = "└"
			}
			s.say("                            %s─ %s", branch, b.Name)
		}
	} else {
		s.say("client ── router ── balancer\n             │          │\n             └─ switch ─┴─ %s", names(l.Backends))
	}
	s.say("")
	for _, h := range append([]*lab.Host{l.Client, l.Balancer}, l.Backends...) {
		s.say("%-10s %-12s %s", h.Name, h.V4, h.V6)
	}
	s.say("\nBelow, \"client$\" stands for: ip netns exec %s, and so on.", l.Client.NetNS)
}

func names(hosts []*lab.Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return strings.Join(all, ", ")
}

// setUp does everything up to a service that works.
func (s *story) setUp() error {
	for _, step := range []func() error{s.startServers, s.startBackends, s.startDaemon, s.addServices, s.waitServing} {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) startServers() error {
	s.title("Start a web server on each backend")
	for _, b := range s.lab.Backends {
		if err := s.startServer(b); err != nil {
			return err
		}
	}
	s.say("Each answers with its own name:")
	asking := s.lab.Client
	if s.lab.Return == lab.ReturnSNAT {
		asking = s.lab.Balancer // the client has no way to them
	}
	return s.run(asking, "curl", "-sS", "http://"+netip.AddrPortFrom(s.lab.Backends[0].V4, s.topic.port).String()+"/")
}

func (s *story) startServer(b *lab.Host) error {
	server, err := b.Nginx(s.ctx, lab.Site{Ports: []uint16{s.topic.port}, BigBytes: 1 << 20})
	if err != nil {
		return err
	}
	s.servers[b] = server
	s.show(b, server.Args()...)
	return nil
}

func (s *story) startBackends() error {
	s.title("Prepare the backends")
	s.say("%s", s.topic.backends)
	switch s.lab.Return {
	case lab.ReturnGateway:
		return s.run(s.lab.Backends[0], "ip", "route", "get", s.lab.Client.V4.String())
	case lab.ReturnSNAT:
		snat, _ := lab.SNAT()
		return s.run(s.lab.Balancer, "ip", "-brief", "address", "show", "to", snat.String())
	}
	var vips, balancers []netip.Addr
	for _, service := range s.topic.services {
		vips = append(vips, service.address)
	}
	// Packets come from the balancer's addresses at the switch.
	balancers = append(balancers, s.lab.Balancer.V4, s.lab.Balancer.V6)
	for _, b := range s.lab.Backends {
		helper, err := b.BackendHelper(s.ctx, s.w.binary, vips, balancers)
		if err != nil {
			return err
		}
		s.show(b, append([]string{"steelyard"}, helper.Args()[1:]...)...)
	}
	return nil
}

// socketOf is where the daemon of a lab listens.
func socketOf(l *lab.Lab) string { return filepath.Join(l.Balancer.Dir(), "api.sock") }

func (s *story) startDaemon() error {
	s.title("Start Steelyard on the balancer")
	interfaces := "[eth0]"
	if s.lab.Interfaces == 2 {
		interfaces = "[eth0, eth1]"
	}
	config := fmt.Sprintf("interfaces: %s\napi:\n  socket: %s\nstore: %s\n",
		interfaces, socketOf(s.lab), filepath.Join(s.lab.Balancer.Dir(), "state.db")) + s.topic.config
	daemon, err := s.lab.Balancer.Daemon(s.ctx, s.w.binary, socketOf(s.lab), config)
	if err != nil {
		return err
	}
	s.daemon = daemon
	command := append([]string{"steelyard"}, daemon.Args()[1:]...)
	s.show(s.lab.Balancer, "cat", command[len(command)-1])
	s.indent(config)
	s.show(s.lab.Balancer, command...)
	s.show(s.lab.Balancer, "export", "STEELYARD_SOCKET="+daemon.Socket)
	return nil
}

// addServices asks for two services, one of each family.
func (s *story) addServices() error {
	s.title("Add services through the CLI")
	s.say("%s", s.topic.added)
	for _, service := range s.topic.services {
		add := []string{"pool", "add", service.pool}
		for i, b := range s.lab.Backends {
			add = append(add, fmt.Sprintf("%s,weight=%d", s.named(service, b), i+1))
		}
		if err := s.steelyard(add...); err != nil {
			return err
		}
		if err := s.steelyard("check", "add", service.pool, "http", "--port", fmt.Sprint(s.topic.port), "--path", "/healthz",
			"--interval", "300ms", "--timeout", "200ms", "--rise", "2", "--fall", "2"); err != nil {
			return err
		}
		endpoint := netip.AddrPortFrom(service.address, 80).String()
		if err := s.steelyard("vip", "add", service.vip, endpoint, "--mode", service.mode, "--pool", service.pool); err != nil {
			return err
		}
	}
	return nil
}

// named is what a service calls a backend: by its port, where that is translated.
func (s *story) named(service service, b *lab.Host) string {
	if s.lab.Return == lab.ReturnDirect {
		return service.backend(b).String()
	}
	return netip.AddrPortFrom(service.backend(b), s.topic.port).String()
}

// waitServing waits until every backend of every pool is up.
func (s *story) waitServing() error {
	for _, b := range s.lab.Backends {
		if err := s.waitHealth(b, "up"); err != nil {
			return err
		}
	}
	s.say("The checks have passed: all backends are up.")
	return nil
}

// pool is what the demonstration reads of `steelyard pool show NAME -o json`.
type pool struct {
	Backends []struct {
		Address netip.Addr `json:"address"`
		Health  string     `json:"health"`
		Slots   int        `json:"slots"`
	} `json:"backends"`
}

func (s *story) pool(name string) (pool, error) {
	out, err := s.daemon.CLI("pool", "show", name, "-o", "json")
	if err != nil {
		return pool{}, err
	}
	var p pool
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		return pool{}, fmt.Errorf("read what `steelyard pool show %s -o json` prints: %w", name, err)
	}
	return p, nil
}

// waitHealth waits until a backend has this health in every pool, and the
// slots that follow from it.
func (s *story) waitHealth(b *lab.Host, health string) error {
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	return lab.WaitFor(ctx, b.Name+" is "+health, func() error {
		for _, service := range s.topic.services {
			p, err := s.pool(service.pool)
			if err != nil {
				return err
			}
			for _, is := range p.Backends {
				if is.Address == service.backend(b) && (is.Health != health || (is.Slots > 0) != (health == "up")) {
					return fmt.Errorf("backend %s of pool %s is %s with %d slots", is.Address, service.pool, is.Health, is.Slots)
				}
			}
		}
		return nil
	})
}

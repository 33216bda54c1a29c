package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// hints says what can be tried in a lab that is up.
func hints(s *story) {
	last := s.lab.Backends[len(s.lab.Backends)-1]
	takeDown := "make demo-down"
	if s.lab.Name != "steelyard" {
		takeDown = "go run ./tools/lab --name " + s.lab.Name + " down"
	}
	fmt.Fprintf(s.w.out, `
The lab is up. Things to try, as root:

  export STEELYARD_SOCKET=%[1]s
  %[2]s status
  %[2]s pool show %[3]s
  %[2]s backend drain %[3]s %[4]s
  ip netns exec %[5]s curl %[6]s
  ip netns exec %[5]s curl %[7]s
  kill $(cat %[8]s/nginx/nginx.pid)     # stop the web server of %[9]s
  less %[10]s

Take it down with: %[11]s
`, s.daemon.Socket, s.w.binary, s.topic.services[0].pool, s.named(s.topic.services[0], s.lab.Backends[0]), s.lab.Client.NetNS,
		s.topic.services[0].url("/"), s.topic.services[1].url("/"), last.Dir(), last.Name, s.daemon.LogPath, takeDown)
}

// shell opens an interactive shell in a lab and takes the lab down when it ends.
func shell(ctx context.Context, w *world, _ []string) (err error) {
	s, err := newStory(ctx, w)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(w.out, "Taking the lab down.")
		err = errors.Join(err, s.lab.Close())
	}()
	if err := s.setUp(); err != nil {
		return err
	}
	startup := filepath.Join(s.lab.Dir(), "bashrc")
	if err := os.WriteFile(startup, []byte(bashrc(s)), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(w.out, `
The lab is up, and this is a shell in the middle of it. Things to try:

  steelyard status
  steelyard backend drain %[1]s %[2]s
  client curl %[3]s
  client curl %[4]s
  web stop %[5]s; sleep 1; steelyard pool show %[1]s
  web start %[5]s
  balancer ip -s link show eth0

Every host's name (%[6]s)
runs a command there. "exit" leaves and takes the lab down.

`, s.topic.services[0].pool, s.named(s.topic.services[0], s.lab.Backends[0]), s.topic.services[0].url("/"), s.topic.services[1].url("/"),
		s.lab.Backends[len(s.lab.Backends)-1].Name, names(s.lab.Hosts()))

	bash := exec.Command("bash", "--rcfile", startup, "-i")
	bash.Stdin, bash.Stdout, bash.Stderr = w.in, w.out, w.err
	var exit *exec.ExitError
	// What the last command in the shell returned is nobody's failure.
	if err := bash.Run(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("shell: %w", err)
	}
	return nil
}

// bashrc defines a command for each host and one for the web servers.
func bashrc(s *story) string {
	var b strings.Builder
	fmt.Fprintf(&b, `[ -f ~/.bashrc ] && . ~/.bashrc
export STEELYARD_SOCKET=%s
export PATH=%s:$PATH:/usr/sbin:/sbin
PS1='lab \w\$ '
`, quote(socketOf(s.lab)), quote(filepath.Dir(s.w.binary)))
	for _, h := range s.lab.Hosts() {
		fmt.Fprintf(&b, "%s() { %s \"$@\"; }\n", h.Name, enter(h))
	}
	fmt.Fprintf(&b, `web() {
	local dir=%s/$2/nginx
	[ -d "$dir" ] || { echo "usage: web start|stop BACKEND"; return 2; }
	case $1 in
	stop) kill "$(cat "$dir/nginx.pid")" ;;
	start) ("$2" setsid nginx -p "$dir" -e error.log -c nginx.conf >/dev/null 2>&1 &) ;;
	*) echo "usage: web start|stop BACKEND"; return 2 ;;
	esac
}
`, quote(s.lab.Dir()))
	return b.String()
}

// enter is the command line, less the command, that runs something on a host.
func enter(h *lab.Host) string {
	args := h.Command("").Args
	for i, arg := range args {
		args[i] = quote(arg)
	}
	return strings.Join(args[:len(args)-1], " ")
}

// quote makes a word of the shell.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

func TestBadUse(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", "is no command"},
		{"demmo", `"demmo" is no command`},
		{"--nope demo", "see lab --help"},
		{"--mode post demo", "--mode post: want dsr, nat or fullnat"},
		{"--binary /nonexistent demo", "no steelyard to run at /nonexistent"},
		{"--binary /nonexistent shell", "make build"},
		{"--name none down", `"none" is not up`},
		{"--name none exec client true", `"none" is not up`},
		{"exec client", "want a host and a command"},
		{"down everything", "want nothing or --all"},
	} {
		w := &world{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}}
		err := run(t.Context(), w, strings.Fields(test.args))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("lab %s: %v; want %q", test.args, err, test.want)
		}
	}
}

// TestBrokenBinary wants the reason of a failure, and nothing left behind.
func TestBrokenBinary(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "steelyard")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho the reason >&2\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"demo", "up", "shell"} {
		w := &world{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}}
		err := run(t.Context(), w, []string{"--binary", binary, "--name", "broken", command})
		if err == nil || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("%s: %v", command, err)
		}
		if _, err := lab.Open("broken"); err == nil {
			t.Errorf("%s left the lab up", command)
		}
	}
}

// TestInterrupted ends the demonstration while it waits.
func TestInterrupted(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "steelyard")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	w := &world{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}}
	w.out = &onText{text: "Prepare the backends", then: interrupt}
	err := run(ctx, w, []string{"--binary", binary, "--name", "interrupted", "demo"})
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("ended with %v", err)
	}
	if _, err := lab.Open("interrupted"); err == nil {
		t.Error("the lab is left up")
	}
}

// onText calls then when a text is written.
type onText struct {
	text string
	then func()
}

func (o *onText) Write(p []byte) (int, error) {
	if strings.Contains(string(p), o.text) {
		o.then()
	}
	return len(p), nil
}

// TestShell runs commands as somebody in the shell would.
func TestShell(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	s := &story{w: &world{binary: "/opt/it's here/steelyard"}, lab: l}
	startup := filepath.Join(t.TempDir(), "bashrc")
	if err := os.WriteFile(startup, []byte(bashrc(s)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Backends[0].Nginx(t.Context(), lab.Site{}); err != nil {
		t.Fatal(err)
	}
	bash := func(script string) (string, error) {
		out, err := exec.Command("bash", "-c", "source "+quote(startup)+"; "+script).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for _, test := range []struct{ script, want string }{
		{"client ip -brief address show dev eth0", "192.0.2.2/24"},
		{"client curl -sS " + l.Backends[0].V4.String(), "backend1"},
		{"balancer ping -n -c 1 " + l.Router.V6.String(), " 0% packet loss"},
		{"router ip route get " + firstVIP().String(), l.Balancer.V4.String()},
		{"switch ip -brief link show type bridge", "br0"},
		{"echo $STEELYARD_SOCKET", socketOf(l)},
		{"echo $PATH", "/opt/it's here:"},
		{"web stop nobody", "usage: web"},
		{"web restart backend1", "usage: web"},
		{"web stop backend1 && echo stopped", "stopped"},
	} {
		if out, err := bash(test.script); !strings.Contains(out, test.want) {
			t.Errorf("%s: %q (%v), want %q", test.script, out, err, test.want)
		}
	}
	// What was stopped starts again.
	if out, err := bash("web start backend1"); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	url := "http://" + l.Backends[0].V4.String() + "/"
	err := lab.WaitFor(t.Context(), "the web server is back", func() error {
		if answers := l.Client.Fetch(t.Context(), url, 1, 1); answers.Failed() > 0 {
			return fmt.Errorf("%v", answers.Failures)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func firstVIP() netip.Addr {
	v4, _ := lab.VIP(1)
	return v4
}

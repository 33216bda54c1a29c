package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

//go:embed load.lua
var loadScript string

const (
	// threads of the client, each with a part of its connections.
	threads = 2
	// connections that are open at a time.
	connections = 32
	// bigBytes is the size of the large answer.
	bigBytes = 1 << 20
)

// workload is what the client asks for.
type workload struct {
	name string
	// path asked for; afresh: over a new connection each time.
	path   string
	afresh bool
	unit   string
	// perSecond is the figure of a turn.
	perSecond func(*answers) float64
	// latency tells whether that of requests is of interest.
	latency bool
}

func workloads() []workload {
	requests := func(a *answers) float64 { return float64(a.Requests) / a.seconds() }
	return []workload{
		{"http keep-alive", "/", false, unitRequests, requests, true},
		{"http new connections", "/", true, unitConnections, requests, true},
		{"http 1 MiB", "/big", false, unitBytes, func(a *answers) float64 { return float64(a.Bytes) / (1 << 20) / a.seconds() }, false},
	}
}

// answers is what load.lua says of a turn. Connections that were cut had been made, but
// ended before the answer.
type answers struct {
	Microseconds, Requests, Bytes, Cut, Failed uint64
	P50, P99                                   float64 // microseconds
}

func (a *answers) seconds() float64 { return float64(a.Microseconds) / 1e6 }

// ask lets the client ask for so long, each of its threads one of the targets.
func (w *workload) ask(client *lab.Host, targets []netip.Addr, length time.Duration) (*answers, error) {
	script := filepath.Join(client.Dir(), "load.lua")
	if err := os.WriteFile(script, []byte(loadScript), 0o644); err != nil {
		return nil, err
	}
	var to []string
	for _, t := range targets {
		to = append(to, t.String())
	}
	// It ends by itself, after whole seconds: a signal that comes while it is about to sleep
	// it takes for a wish to sleep on.
	args := []string{"TARGETS=" + strings.Join(to, " "),
		"wrk", "-t", fmt.Sprint(threads), "-c", fmt.Sprint(connections), "-d", fmt.Sprintf("%.0fs", length.Seconds()), "-s", script}
	if w.afresh {
		args = append(args, "-H", "Connection: close")
	}
	out, err := client.Run("env", append(args, "http://"+to[0]+w.path)...)
	if err != nil {
		return nil, err
	}
	a := &answers{}
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), a); err != nil {
		return nil, fmt.Errorf("what wrk says: %w: %s", err, out)
	}
	if a.Requests == 0 || a.Failed > 0 {
		return nil, fmt.Errorf("%d requests were answered, %d failed: %s", a.Requests, a.Failed, out)
	}
	return a, nil
}

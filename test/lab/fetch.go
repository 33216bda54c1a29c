package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// requestTimeout bounds one request of [Host.Fetch], its connection included.
const requestTimeout = 5 * time.Second

// Answers counts what came back from many requests.
type Answers struct {
	// Bodies counts answers with status 200 by their body, without space at its ends.
	Bodies map[string]int
	// Failures counts everything else by what went wrong.
	Failures map[string]int
}

// Good is the number of answers with status 200.
func (a Answers) Good() int { return sum(a.Bodies) }

// Failed is the number of requests that were not answered well.
func (a Answers) Failed() int { return sum(a.Failures) }

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// Fetch sends n requests from the host, each over a connection of its own,
// concurrency of them at a time, and counts the answers. From the client, each
// connection comes from the next one of 254 addresses. The URL's host must be a
// literal address. When the context ends, so do the requests; those not sent
// count as failures.
//
// The requests are made in this process: only the making of a socket has to
// happen inside of the namespace, see [Host.Do].
func (h *Host) Fetch(ctx context.Context, url string, n, concurrency int) Answers {
	var connections atomic.Uint32
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.Dial(ctx, network, address, h.source(address, connections.Add(1)))
		},
	}
	client := &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer transport.CloseIdleConnections()

	answers := Answers{Bodies: map[string]int{}, Failures: map[string]int{}}
	var mu sync.Mutex // guards answers
	var left atomic.Int64
	left.Store(int64(n))
	var workers sync.WaitGroup
	for range min(n, concurrency) {
		workers.Go(func() {
			for left.Add(-1) >= 0 {
				body, err := get(ctx, client, url)
				mu.Lock()
				if err != nil {
					answers.Failures[err.Error()]++
				} else {
					answers.Bodies[body]++
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return answers
}

// source is the address that the client's i-th connection comes from. Other
// hosts leave the choice to the kernel.
func (h *Host) source(address string, i uint32) netip.Addr {
	to, err := netip.ParseAddrPort(address)
	if err != nil || h != h.lab.Client {
		return netip.Addr{}
	}
	v4, v6 := netSources.host(1 + int(i%254))
	if to.Addr().Is4() {
		return v4
	}
	return v6
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("get %s: read the body: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: status %d", url, response.StatusCode)
	}
	return strings.TrimSpace(string(body)), nil
}

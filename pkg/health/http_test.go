package health

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// site is a web server with an answer of each kind.
func site() http.Handler {
	mux := http.NewServeMux()
	text := func(path string, status int, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
	}
	text("/{$}", 200, "all is ok here")
	text("/busy", 503, "ok")
	text("/last", 200, strings.Repeat("x", maxBody-len("ok"))+"ok")
	text("/late", 200, strings.Repeat("x", maxBody-len("ok")+1)+"ok")
	mux.Handle("/moved", http.RedirectHandler("/busy", http.StatusFound))
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s host=%s close=%v query=%s;", r.Method, r.UserAgent(), r.Host, r.Close, r.URL.RawQuery)
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("/chunks", func(w http.ResponseWriter, _ *http.Request) {
		for _, c := range strings.Repeat("x", 5000) + "ok" {
			fmt.Fprintf(w, "%c", c)
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/stall", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/midway", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half a bo")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/never", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	return mux
}

func serve(t *testing.T, secure bool, addr netip.Addr) (*httptest.Server, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(anyPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: site(), ErrorLog: log.New(io.Discard, "", 0)}}
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, l.Addr().(*net.TCPAddr).AddrPort()
}

func TestHTTP(t *testing.T) {
	for _, kind := range []model.CheckType{model.CheckHTTP, model.CheckHTTPS} {
		t.Run(kind.String(), func(t *testing.T) {
			loopbacks(t, func(t *testing.T, addr netip.Addr) {
				_, to := serve(t, kind == model.CheckHTTPS, addr)
				for _, tt := range []struct {
					path           string
					status         uint32
					body, host     string
					result, detail string
				}{
					{path: "", result: L7OK, detail: "status 200"},
					{path: "/", body: "is ok", result: L7OK, detail: "status 200"},
					{path: "/", body: "well", result: L7RSP, detail: `body does not contain "well"`},
					{path: "/", status: 204, result: L7STS, detail: "status 200, want 204"},
					{path: "/busy", result: L7STS, detail: "status 503, want 200 to 399"},
					{path: "/busy", body: "ok", result: L7STS, detail: "status 503, want 200 to 399"},
					{path: "/busy", status: 503, body: "ok", result: L7OK, detail: "status 503"},
					{path: "/nowhere", result: L7STS, detail: "status 404, want 200 to 399"},
					{path: "/moved", result: L7OK, detail: "status 302"},
					{path: "/moved", status: 200, result: L7STS, detail: "status 302, want 200"},
					{path: "/hints", result: L7OK, detail: "status 200"},
					{path: "/last", body: "ok", result: L7OK, detail: "status 200"},
					{path: "/late", body: "ok", result: L7RSP, detail: `body does not contain "ok"`},
					{path: "/chunks", body: "ok", result: L7OK, detail: "status 200"},
					{path: "/who?a=b", body: "GET steelyard host=" + to.String() + " close=true query=a=b;", result: L7OK, detail: "status 200"},
					{path: "/stall", result: L7OK, detail: "status 200"},
					{path: "/midway", body: "half", result: L7OK, detail: "status 200"},
					{path: "/midway", body: "whole", result: L7TOUT, detail: "no complete answer in time"},
					{path: "/never", result: L7TOUT, detail: "no complete answer in time"},
					{path: "not a path", result: SOCKERR, detail: `the check's path "not a path" cannot be requested; correct it`},
				} {
					c := model.Check{Type: kind, Path: tt.path, Status: tt.status, Body: tt.body, Host: tt.host}
					t.Run(fmt.Sprint(tt.path, tt.status, tt.body), func(t *testing.T) {
						var got outcome
						if tt.result == L7TOUT {
							got = timeOut(t, aim(to, c), L7TOUT)
						} else {
							got = probe(t, aim(to, c))
						}
						wantOutcome(t, got, tt.result, tt.detail)
					})
				}
				closed := aim(refused(t, addr), model.Check{Type: kind})
				wantOutcome(t, probe(t, closed), L4CON, "connection refused")
			})
		})
	}
}

func TestHTTPHost(t *testing.T) {
	_, to := serve(t, false, netip.MustParseAddr("127.0.0.1"))
	named := aim(to, model.Check{Type: model.CheckHTTP, Path: "/who", Host: "www.example.com", Body: "host=www.example.com "})
	wantOutcome(t, probe(t, named), L7OK, "status 200")
	bad := aim(to, model.Check{Type: model.CheckHTTP, Host: "two words"})
	wantOutcome(t, probe(t, bad), SOCKERR, `the check's host "two words" cannot be requested; correct it`)
	for _, tt := range []struct {
		to   string
		kind model.CheckType
		want string
	}{
		{"192.0.2.1:80", model.CheckHTTP, "192.0.2.1"},
		{"192.0.2.1:443", model.CheckHTTPS, "192.0.2.1"},
		{"192.0.2.1:443", model.CheckHTTP, "192.0.2.1:443"},
		{"[2001:db8::1]:80", model.CheckHTTP, "[2001:db8::1]"},
		{"[2001:db8::1]:8080", model.CheckHTTP, "[2001:db8::1]:8080"},
	} {
		if got := hostOf(netip.MustParseAddrPort(tt.to), tt.kind); got != tt.want {
			t.Errorf("host of %s over %v is %s, want %s", tt.to, tt.kind, got, tt.want)
		}
	}
}

// A server is verified exactly when the check names it.
func TestHTTPSVerifies(t *testing.T) {
	s, to := serve(t, true, netip.MustParseAddr("127.0.0.1"))
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	for _, tt := range []struct {
		name   string
		roots  *x509.CertPool
		host   string
		result string
		detail string
	}{
		{"no name, no roots", x509.NewCertPool(), "", L7OK, "status 200"},
		{"its name", roots, "example.com", L7OK, "status 200"},
		{"its name and a port", roots, "example.com:8443", L7OK, "status 200"},
		{"another's name", roots, "other.test", L6RSP, "not other.test"},
		{"its name, no roots", x509.NewCertPool(), "example.com", L6RSP, "certificate signed by unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := New(WithRoots(tt.roots))
			got := c.prober.probe(within(t, patience), aim(to, model.Check{Type: model.CheckHTTPS, Host: tt.host}))
			if got.result != tt.result || !strings.Contains(got.detail, tt.detail) {
				t.Errorf("got %s, %s; want %s, ...%s...", got.result, got.detail, tt.result, tt.detail)
			}
		})
	}
}

// Servers that speak no TLS, no HTTP, or too much of it.
func TestHTTPBroken(t *testing.T) {
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, text)
			// Until the probe hangs up: a reset must not overtake the text.
			io.Copy(io.Discard, c)
		}
	}
	hangUp := func(c net.Conn) {
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	}
	const head = "HTTP/1.1 200 OK\r\n"
	for _, tt := range []struct {
		name   string
		kind   model.CheckType
		serve  func(net.Conn)
		result string
		detail string
	}{
		{"no HTTP", model.CheckHTTP, say("SSH-2.0-x\r\n\r\n"), L7RSP, "malformed HTTP"},
		{"nothing", model.CheckHTTP, hangUp, L7RSP, "connection closed by the server"},
		{"endless header", model.CheckHTTP, say(head + strings.Repeat("X: y\r\n", 1<<14)), L7RSP, "longer than 64 KiB"},
		{"endless interim", model.CheckHTTP, say(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9)), L7RSP, "interim"},
		{"silence", model.CheckHTTP, say(""), L7TOUT, "no complete answer"},
		{"no TLS", model.CheckHTTPS, say("HTTP/1.0 400 Bad Request\r\n\r\n"), L6RSP, "TLS handshake: first record does not look like"},
		{"no TLS, closed", model.CheckHTTPS, hangUp, L6RSP, "TLS handshake: connection closed by the server"},
		{"TLS silence", model.CheckHTTPS, say(""), L6TOUT, "handshake did not end in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to, _ := listen(t, anyPort(netip.MustParseAddr("127.0.0.1")), tt.serve)
			target, got := aim(to, model.Check{Type: tt.kind}), outcome{}
			if strings.HasSuffix(tt.result, "TOUT") {
				got = timeOut(t, target, tt.result)
			} else {
				got = probe(t, target)
			}
			if got.result != tt.result || !strings.Contains(got.detail, tt.detail) {
				t.Errorf("got %s, %s; want %s, ...%s...", got.result, got.detail, tt.result, tt.detail)
			}
		})
	}
	t.Run("body cut short", func(t *testing.T) {
		to, _ := listen(t, anyPort(netip.MustParseAddr("127.0.0.1")), func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, head+"Content-Length: 100\r\n\r\nhalf")
			hangUp(c)
		})
		got := probe(t, aim(to, model.Check{Type: model.CheckHTTP, Body: "whole"}))
		wantOutcome(t, got, L7RSP, "connection closed by the server")
	})
}

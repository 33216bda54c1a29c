package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const (
	// maxHeader and maxBody are how much of an answer is read. maxWire bounds
	// a body on the wire: one in many small chunks is longer there.
	maxHeader = 64 << 10
	maxBody   = 64 << 10
	maxWire   = 16 * maxBody
	// maxInterim is how many 1xx answers may come before the final one.
	maxInterim = 8
)

// http sends one GET over a connection of its own and judges the answer. It
// follows no redirect, and reads no more than it needs: without an expected
// body, the header.
func (p *prober) http(ctx context.Context, t Target) outcome {
	request, err := newRequest(t)
	if err != nil {
		return unable(err.Error())
	}
	socket, failed := connect(ctx, t.Endpoint())
	if socket == nil {
		return failed
	}
	defer socket.Close()
	defer bound(ctx, socket)()
	var conn net.Conn = socket
	if t.Check.Type == model.CheckHTTPS {
		secure := tls.Client(socket, p.tlsConfig(t.Check))
		if err := secure.Handshake(); err != nil {
			return refusedTLS(err)
		}
		conn = secure
	}
	if err := request.Write(conn); err != nil {
		return noAnswer(err)
	}
	return judgeAnswer(conn, request, t.Check)
}

// newRequest fails if the check's host or path cannot be sent.
func newRequest(t Target) (*http.Request, error) {
	u, err := url.ParseRequestURI(t.Check.Path)
	if err != nil {
		return nil, fmt.Errorf("the check's path %q cannot be requested; correct it", t.Check.Path)
	}
	host := t.Check.Host
	if host == "" {
		host = hostOf(t.Endpoint(), t.Check.Type)
	}
	if authority, err := url.Parse("//" + host); err != nil || authority.Host != host {
		return nil, fmt.Errorf("the check's host %q cannot be requested; correct it", host)
	}
	return &http.Request{
		Method: http.MethodGet, URL: u, Host: host, Close: true,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {"steelyard"}, "Accept": {"*/*"}},
	}, nil
}

// hostOf is the Host header for an address (RFC 9110, section 7.2): without
// the port that the scheme implies.
func hostOf(to netip.AddrPort, kind model.CheckType) string {
	implied := uint16(80)
	if kind == model.CheckHTTPS {
		implied = 443
	}
	switch {
	case to.Port() != implied:
		return to.String()
	case to.Addr().Is6():
		return "[" + to.Addr().String() + "]"
	}
	return to.Addr().String()
}

func (p *prober) tlsConfig(c model.Check) *tls.Config {
	config := &tls.Config{RootCAs: p.roots, NextProtos: []string{"http/1.1"}}
	if c.Host == "" {
		// Nobody certifies a backend's address: without a name there is
		// nothing to verify, which is what the operator was told.
		config.InsecureSkipVerify = true
		return config
	}
	config.ServerName = strings.Trim(c.Host, "[]")
	if host, _, err := net.SplitHostPort(c.Host); err == nil {
		config.ServerName = host
	}
	return config
}

func refusedTLS(err error) outcome {
	if isTimeout(err) {
		return fail(L6TOUT, "the TLS handshake did not end in time")
	}
	return fail(L6RSP, "TLS handshake: "+strings.TrimPrefix(cause(err), "tls: "))
}

// noAnswer is the outcome of an error between request and answer.
func noAnswer(err error) outcome {
	if isTimeout(err) {
		return fail(L7TOUT, "no complete answer in time")
	}
	return fail(L7RSP, cause(err))
}

func judgeAnswer(conn io.Reader, request *http.Request, c model.Check) outcome {
	wire := &io.LimitedReader{R: conn, N: maxHeader}
	answer, err := readAnswer(bufio.NewReader(wire), request)
	if err != nil {
		if wire.N <= 0 {
			return fail(L7RSP, "the answer's header is longer than 64 KiB")
		}
		return noAnswer(err)
	}
	status := fmt.Sprintf("status %d", answer.StatusCode)
	switch {
	case c.Status == 0 && (answer.StatusCode < 200 || answer.StatusCode > 399):
		return fail(L7STS, status+", want 200 to 399")
	case c.Status != 0 && answer.StatusCode != int(c.Status):
		return fail(L7STS, fmt.Sprintf("%s, want %d", status, c.Status))
	case c.Body == "":
		return pass(L7OK, status)
	}
	wire.N = maxWire
	found, err := contains(answer.Body, c.Body)
	switch {
	case found:
		return pass(L7OK, status)
	case err != nil && wire.N > 0:
		return noAnswer(err)
	}
	return fail(L7RSP, fmt.Sprintf("body does not contain %q", c.Body))
}

// readAnswer reads the header of the final answer, past interim ones.
func readAnswer(r *bufio.Reader, request *http.Request) (*http.Response, error) {
	for range maxInterim {
		answer, err := http.ReadResponse(r, request)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, nil
		}
	}
	return nil, errors.New("nothing but interim answers (1xx)")
}

// contains looks for text in the first 64 KiB of a body, and returns as soon
// as it is found: a server may keep its answer open for long.
func contains(body io.Reader, text string) (bool, error) {
	var read bytes.Buffer
	chunk := make([]byte, 4096)
	for read.Len() < maxBody {
		n, err := body.Read(chunk[:min(len(chunk), maxBody-read.Len())])
		seen := max(0, read.Len()-len(text)+1)
		read.Write(chunk[:n])
		if bytes.Contains(read.Bytes()[seen:], []byte(text)) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

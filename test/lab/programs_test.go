package lab_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestTransit finds that the way to the client is as narrow as was asked for, in its
// middle and nowhere else.
func TestTransit(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1, Transit: 1400})
	b := l.Backends[0]
	for _, way := range []struct{ client, access, backend netip.Addr }{{l.Client.V4, l.Access.V4, b.V4}, {l.Client.V6, l.Access.V6, b.V6}} {
		headers := 20 + 8
		if way.client.Is6() {
			headers = 40 + 8
		}
		ping := func(from *lab.Host, to netip.Addr, size int) error {
			_, err := from.Run("ping", "-n", "-q", "-c", "1", "-W", "5", "-M", "do", "-s", strconv.Itoa(size-headers), to.String())
			return err
		}
		for _, to := range []netip.Addr{way.access, way.backend} {
			if err := ping(l.Client, to, 1400); err != nil {
				t.Error(err)
			}
		}
		if err := ping(l.Client, way.access, 1500); err != nil {
			t.Error(err)
		}
		// The access router says so to one side, the router to the other.
		for _, far := range []struct {
			from *lab.Host
			to   netip.Addr
		}{{l.Client, way.backend}, {b, way.client}} {
			if err := ping(far.from, far.to, 1401); err == nil {
				t.Errorf("1401 bytes went from %s to %s", far.from.Name, far.to)
			}
			if out, err := far.from.Run("ip", "route", "get", far.to.String()); err != nil || !strings.Contains(out, "mtu 1400") {
				t.Errorf("%s knows of %s: %s, %v", far.from.Name, far.to, out, err)
			}
		}
	}
}

func TestUpload(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	b := l.Backends[0]
	if _, err := b.Nginx(t.Context(), lab.Site{}); err != nil {
		t.Fatal(err)
	}
	file, data := filepath.Join(t.TempDir(), "data"), bytes.Repeat([]byte("steelyard"), 1<<18)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := l.Client.Run("curl", "-sS", "-T", file, "-w", "%{http_code} %header{x-host}", url(b.V4, "/upload/some"))
	if err != nil || out != "201 backend1" {
		t.Fatalf("answer %q: %v", out, err)
	}
	if got, err := os.ReadFile(b.Uploaded("some")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d are kept: %v", len(got), len(data), err)
	}
	if out, err := l.Client.Run("curl", "-sS", url(b.V6, "/server")); err != nil || out != b.V6.String()+" 80\n" {
		t.Errorf("/server is %q: %v", out, err)
	}
}

// TestNSD asks a name server, which a capture on the way sees.
func TestNSD(t *testing.T) {
	l := lab.Start(t, lab.Options{Backends: 1})
	b := l.Backends[0]
	if _, err := b.NSD(t.Context(), lab.Zone{Name: "example.org", Records: []string{`who TXT "backend1"`}}, b.V4, b.V6); err != nil {
		t.Fatal(err)
	}
	capture, err := l.Router.Capture(t.Context(), "client", "udp port 53")
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []netip.Addr{b.V4, b.V6} {
		for _, over := range []string{"+notcp", "+tcp"} {
			if out, err := l.Client.Run("kdig", "@"+at.String(), over, "+short", "who.example.org", "TXT"); err != nil || out != "\"backend1\"\n" {
				t.Errorf("%s %s answers %q: %v", at, over, out, err)
			}
		}
	}
	if err := lab.WaitFor(deadline(t), "the capture has seen the answers", func() error {
		seen, err := os.ReadFile(capture.LogPath)
		if err == nil && strings.Count(string(seen), `TXT "backend1"`) < 2 {
			err = os.ErrNotExist
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

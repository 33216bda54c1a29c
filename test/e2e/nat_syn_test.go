package e2e

import (
	"context"
	"crypto/sha256"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// protect has VIPs let so many SYNs a second through, and answer all others with cookies.
func (r *rig) protect(ways []way, rate int) {
	r.t.Helper()
	for _, w := range ways {
		r.cli("vip", "set", w.name, "--syn-cookies", fmt.Sprint(rate))
	}
}

// TestSYNCookies has ordinary servers and clients that know nothing of it behind VIPs that
// give all connections but one a second a cookie, as in a flood.
func TestSYNCookies(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{}, setup{}, func(r *rig, ways []way) {
		r.addNATPools()
		r.addNATVIPs(ways)
		r.protect(ways, 1)
		want, file := r.randomBig(largeBytes), randomFile(r.t, largeBytes)
		for _, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				before := on.status().Reasons["tx_syn_cookie"]
				if answers := on.fetch(w.vip, 200); len(answers) != len(on.Backends) {
					t.Errorf("answers come from %v", answers)
				}
				if n := on.status().Reasons["tx_syn_cookie"] - before; n < 150 {
					t.Errorf("%d cookies were given to 200 connections", n)
				}
				on.upload(w.vip, file, w.name)
				out, err := on.Client.Command("curl", "-sS", "--max-time", "60", url(w.vip, "/upload/random")).Output()
				if got := fmt.Sprintf("%x", sha256.Sum256(out)); err != nil || got != want {
					t.Errorf("%d of %d bytes arrived, digest %s, want %s: %v", len(out), largeBytes, got, want, err)
				}
			})
		}
		r.dropsNothing()
	})
}

// TestSYNCookiesServerFirst: the client has nothing to say until the server has spoken.
// After that each closes first once, and goes on to listen.
func TestSYNCookiesServerFirst(t *testing.T) {
	t.Parallel()
	const clients = 8
	eachNAT(t, lab.Options{Backends: 2}, setup{}, func(r *rig, ways []way) {
		r.accept(servicePort, func(_ *lab.Host, conn *net.TCPConn) {
			fmt.Fprint(conn, "220 ready\n")
			if got, err := io.ReadAll(conn); err == nil {
				fmt.Fprintf(conn, "got %d\n", len(got))
			}
		})
		r.addPortPools("banner", servicePort)
		for i, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				on.addVIP(w.name, w.vip, w.mode, "banner"+w.pool)
				on.protect([]way{w}, 1)
				var all sync.WaitGroup
				for j := range clients {
					all.Go(func() {
						if err := on.greeted(w.vip, clients*i+j); err != nil {
							t.Errorf("client %d: %v", j, err)
						}
					})
				}
				all.Wait()
			})
		}
		if reasons := r.status().Reasons; reasons["tx_syn_cookie"] == 0 || reasons["tx_syn_ack"] == 0 {
			r.t.Errorf("no connection began with a cookie and a silent client: %v", reasons)
		}
		r.dropsNothing()
	})
}

// greeted waits for a greeting, says something, closes and waits for what comes of it.
func (r *rig) greeted(vip netip.Addr, i int) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	conn, err := r.Client.Dial(ctx, "tcp", endpoint(vip), source(vip, i))
	if err != nil {
		return err
	}
	defer conn.Close()
	said := make([]byte, len("220 ready\n"))
	const more = 100_000
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, said); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	_, err = conn.Write(make([]byte, more))
	if err := errors.Join(err, conn.(*net.TCPConn).CloseWrite()); err != nil {
		return err
	}
	rest, err := io.ReadAll(conn)
	if want := fmt.Sprintf("got %d\n", more); err == nil && string(rest) != want {
		err = fmt.Errorf("the server says %q, want %q", rest, want)
	}
	return err
}

// TestSYNCookiesStay: connections that began with a cookie outlive the daemon, other
// limits, and the setting.
func TestSYNCookiesStay(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Backends: 2}, setup{}, func(r *rig, ways []way) {
		r.addNATPools()
		r.addNATVIPs(ways)
		r.protect(ways, 1)
		var all []*kept
		for _, w := range ways {
			all = append(all, r.keep(w.vip, 10)...)
		}
		if r.status().Reasons["tx_syn_cookie"] == 0 {
			r.t.Fatal("no cookie was given")
		}
		for _, step := range []struct {
			name string
			do   func()
		}{
			{"a restart", func() { r.stopDaemon(); r.startDaemon() }},
			{"other limits", func() {
				r.stopDaemon()
				r.more += "limits: {vips: 2000, splices: 2048}\n"
				r.startDaemon()
			}},
			{"the setting", func() { r.protect(ways, 0) }},
		} {
			step.do()
			if n := r.broken(all); n > 0 {
				r.t.Errorf("%d of %d connections are broken after %s", n, len(all), step.name)
			}
		}
	})
}

// TestSYNFlood: spoofed SYNs at a fullnat VIP leave neither ports nor answers to real
// clients, unless it is protected.
func TestSYNFlood(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name          string
		rate, clients int
	}{{"protected", 10, 50}, {"unprotected", 0, 5}} {
		rate := row.rate
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := startWith(t, lab.Options{Backends: 2, Return: lab.ReturnSNAT},
				setup{ports: []uint16{natPort}, more: oneSource("20000-20999")})
			r.addNATPools()
			ways := natWays("fullnat")[:2]
			r.addNATVIPs(ways)
			r.protect(ways, rate)
			for i, w := range ways {
				before := r.status().Reasons
				sent, end := r.floods(w.vip, i)
				const many = 5000 // more than there are ports
				r.wait("the flood is there", func() error {
					if n := sent.Load(); n < many {
						return fmt.Errorf("%d SYNs have been sent", n)
					}
					return nil
				})
				failed := 0
				for range row.clients {
					if _, err := r.Client.Command("curl", "-sS", "--max-time", "3", url(w.vip, "/")).Output(); err != nil {
						failed++
					}
				}
				end()
				after := r.status().Reasons
				grown := func(reason string) uint64 { return after[reason] - before[reason] }
				t.Logf("%s: %d SYNs sent, %d answered with cookies, %d without a port, %d of %d clients failed",
					w.name, sent.Load(), grown("tx_syn_cookie"), grown("drop_no_nat_port"), failed, row.clients)
				if rate > 0 && (failed > 0 || grown("drop_no_nat_port") > 0 || grown("tx_syn_cookie") < uint64(sent.Load())/2) {
					t.Errorf("%s: the flood gets through", w.name)
				}
				if rate == 0 && grown("drop_no_nat_port") == 0 {
					t.Errorf("%s: the flood leaves ports: it does not test what it should", w.name)
				}
			}
		})
	}
}

// floods sends SYNs to a VIP until it is told to end, some thousands a second, each from
// an address of its own, which does not exist; sent is how many.
func (r *rig) floods(vip netip.Addr, seed int) (sent *atomic.Int64, end func()) {
	r.t.Helper()
	var device *net.Interface
	socket := -1
	r.must(r.Client.Do(func() (err error) {
		if device, err = net.InterfaceByName("eth0"); err == nil {
			socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		}
		return err
	}))
	var router net.HardwareAddr
	r.must(r.Router.Do(func() error {
		client, err := net.InterfaceByName("client")
		if err == nil {
			router = client.HardwareAddr
		}
		return err
	}))
	sent = &atomic.Int64{}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(socket)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for range 20 {
				frame := slices.Concat(router, device.HardwareAddr, spoofed(netip.AddrPortFrom(vip, 80), uint32(seed)<<24+uint32(sent.Add(1))))
				unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: device.Index}) // what is lost is one less
			}
		}
	}()
	end = sync.OnceFunc(func() {
		close(stop)
		<-ended
	})
	r.t.Cleanup(end)
	return sent, end
}

// spoofed is EtherType and IP packet of a SYN from the i-th address of 172.16.0.0/12 or
// 2001:db8:f::/64.
func spoofed(to netip.AddrPort, i uint32) []byte {
	tcp := endian.BigEndian.AppendUint16(nil, uint16(1024+i%60000))
	tcp = endian.BigEndian.AppendUint16(tcp, to.Port())
	tcp = endian.BigEndian.AppendUint32(tcp, i)
	tcp = append(tcp, 0, 0, 0, 0, 6<<4, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4)
	var ip, pseudo []byte
	if to.Addr().Is4() {
		from := endian.BigEndian.AppendUint32(nil, 172<<24|16<<16|i&0xfffff)
		ip = slices.Concat([]byte{0x08, 0x00, 0x45, 0, 0, byte(20 + len(tcp)), 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}, from, to.Addr().AsSlice())
		endian.BigEndian.PutUint16(ip[12:], ^onesSum(ip[2:]))
		pseudo = ip[14:]
	} else {
		from := endian.BigEndian.AppendUint64([]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x0f, 0, 0}, uint64(i)+1)
		ip = slices.Concat([]byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(tcp)), unix.IPPROTO_TCP, 64}, from, to.Addr().AsSlice())
		pseudo = ip[10:]
	}
	endian.BigEndian.PutUint16(tcp[16:], ^onesSum(slices.Concat(pseudo, []byte{0, unix.IPPROTO_TCP, 0, byte(len(tcp))}, tcp)))
	return append(ip, tcp...)
}

// onesSum adds up words in one's complement (RFC 1071). The length is even.
func onesSum(data []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(data); i += 2 {
		sum += uint32(endian.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Capture prints the packets of a device that a filter of tcpdump's language lets
// through, in tcpdump's words with all checksums looked at, and returns when it
// listens. What a program at the device (XDP) takes is not seen there: look at the
// device at the other end of the link.
func (h *Host) Capture(ctx context.Context, device, filter string) (*Process, error) {
	name := fmt.Sprintf("tcpdump-%d", h.captures.Add(1))
	// Its buffer, of 32 MiB, has room for whole packets, but not many for the largest.
	p, err := h.Start(name, "tcpdump", "-Z", "root", "-n", "-l", "-vv", "--immediate-mode", "-s", "2048", "-B", "32768", "-i", device, filter)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	err = p.WaitReady(ctx, func() error {
		log, err := os.ReadFile(p.LogPath)
		if err == nil && !strings.Contains(string(log), "listening on "+device) {
			err = errors.New("it does not listen yet")
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

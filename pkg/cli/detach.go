package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// DefaultPinPath is where a daemon pins its programs and maps unless its
// configuration says otherwise.
const DefaultPinPath = "/sys/fs/bpf/steelyard"

// detachLook is how long a daemon may take to answer.
const detachLook = 2 * time.Second

// DetachOptions are the flags of `steelyard detach`.
type DetachOptions struct {
	// PinPath is absolute.
	PinPath string
}

func newDetach(a *app) *cobra.Command {
	var o DetachOptions
	cmd := verb("detach [--pin-path DIRECTORY]", "Stop balancing after the daemon has ended", 0, 0, func(cmd *cobra.Command, _ []string) error {
		if !filepath.IsAbs(o.PinPath) {
			return invalid("--pin-path %q is not an absolute path", o.PinPath)
		}
		o.PinPath = filepath.Clean(o.PinPath)
		if err := a.refuseWithDaemon(cmd.Context()); err != nil {
			return err
		}
		return a.Detach(cmd.Context(), o)
	})
	cmd.Long = `Take the program off all interfaces and remove what a daemon that no longer runs
has left pinned. When a daemon ends, traffic goes on as it was, so that the next one
can take over without breaking a connection; this is for when there shall be no next
one. Connections through this balancer break. Refused while a daemon answers.`
	cmd.Flags().StringVar(&o.PinPath, "pin-path", DefaultPinPath, "`directory` of the pins, pin_path in the daemon's configuration")
	return cmd
}

// refuseWithDaemon returns an error unless it is certain that nobody listens on
// the daemon's socket.
func (a *app) refuseWithDaemon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, detachLook)
	defer cancel()
	client := a.client()
	defer client.Close()
	_, _, err := client.Get(ctx)
	var unreachable *api.UnreachableError
	switch {
	case errors.As(err, &unreachable) && unreachable.NoDaemon:
		return nil
	case errors.As(err, &unreachable):
		return fmt.Errorf("cannot tell whether a daemon is running: %w", err)
	}
	return &model.ConflictError{Reason: fmt.Sprintf("a daemon is running on %s; stop it first (systemctl stop steelyard), or let it detach when it ends (steelyard daemon --detach-on-exit)", a.socketPath())}
}

package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
)

// expectFlag is no setting: it says when to change, not what.
const expectFlag = "expect-revision"

// registerExpect adds the flag of commands that change something.
func registerExpect(cmd *cobra.Command, expect *uint64) {
	cmd.Flags().Uint64Var(expect, expectFlag, 0, "change nothing unless the desired state is at this revision; 0: any")
	completeFlag(cmd, expectFlag)
}

// change makes the mutations, all or none, and says so in one line; expect is the
// revision that the desired state must be at, 0 for any.
func (a *app) change(ctx context.Context, expect uint64, summary string, mutations ...*steelyardv1.Mutation) error {
	client := a.client()
	defer client.Close()
	revision, err := client.Change(ctx, &steelyardv1.ChangeRequest{ExpectedRevision: expect, Note: summary, Mutations: mutations})
	if err != nil {
		return err
	}
	view := changeView{Revision: revision, Summary: summary, Applied: true}
	if status, err := client.Status(ctx); err != nil {
		view.Applied, view.Error = false, err.Error()
	} else if status.Applied < revision {
		view.Applied, view.Error = false, status.Error
	}
	if view.Error != "" {
		fmt.Fprintf(a.Stderr, "steelyard: warning: the change is stored, but not in force yet: %s; the daemon keeps trying\n", strings.ReplaceAll(view.Error, "\n", "; "))
	}
	return a.print(view, func(w io.Writer) { fmt.Fprintf(w, "%s; revision %d\n", summary, revision) })
}

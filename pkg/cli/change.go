package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api"
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
	_, err := a.changeTo(ctx, expect, summary, func([]api.BackendName) string { return summary }, mutations...)
	return err
}

// changeTo is change for mutations whose outcome the daemon decides: note is what
// is asked for; summarize says what became of it, given the backends that drain,
// which are also returned.
func (a *app) changeTo(ctx context.Context, expect uint64, note string, summarize func([]api.BackendName) string, mutations ...*steelyardv1.Mutation) ([]api.BackendName, error) {
	client := a.client()
	defer client.Close()
	outcome, err := client.Change(ctx, &steelyardv1.ChangeRequest{ExpectedRevision: expect, Note: note, Mutations: mutations})
	if err != nil {
		return nil, err
	}
	view := changeView{Revision: outcome.Revision, Summary: summarize(outcome.Draining), Applied: true}
	for _, b := range outcome.Draining {
		view.Draining = append(view.Draining, b.ID.String())
	}
	if status, err := client.Status(ctx); err != nil {
		view.Applied, view.Error = false, err.Error()
	} else if status.Applied < outcome.Revision {
		view.Applied, view.Error = false, status.Error
	}
	if view.Error != "" {
		fmt.Fprintf(a.Stderr, "steelyard: warning: the change is stored, but not in force yet: %s; the daemon keeps trying\n", strings.ReplaceAll(view.Error, "\n", "; "))
	}
	return outcome.Draining, a.print(view, func(w io.Writer) { fmt.Fprintf(w, "%s; revision %d\n", view.Summary, view.Revision) })
}

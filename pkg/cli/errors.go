package cli

import (
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The exit codes, as the root command's help lists them.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitNotFound
	exitConflict
	exitInvalid
	exitUnreachable
)

// usageError is a command line that cannot be understood.
type usageError struct{ reason string }

func (e *usageError) Error() string { return e.reason }

// invalidError is a value that cannot be right.
type invalidError struct{ reason string }

func (e *invalidError) Error() string { return e.reason }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...) + "\nsee: " + cmd.CommandPath() + " --help"}
}

func invalid(format string, args ...any) error {
	return &invalidError{fmt.Sprintf(format, args...)}
}

func exitCode(err error) int {
	var (
		misuse      *usageError
		bad         *invalidError
		missing     *model.NotFoundError
		conflict    *model.ConflictError
		unreachable *api.UnreachableError
		answer      *api.Error
	)
	switch {
	case errors.As(err, &misuse):
		return exitUsage
	case errors.As(err, &bad):
		return exitInvalid
	case errors.As(err, &missing):
		return exitNotFound
	case errors.As(err, &conflict):
		return exitConflict
	case errors.As(err, &unreachable):
		return exitUnreachable
	case errors.As(err, &answer):
		return answerCode(answer.Code)
	}
	return exitFailure
}

func answerCode(code connect.Code) int {
	switch code {
	case connect.CodeNotFound:
		return exitNotFound
	case connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeAborted:
		return exitConflict
	case connect.CodeInvalidArgument:
		return exitInvalid
	case connect.CodeUnavailable:
		return exitUnreachable
	}
	return exitFailure
}

func verbNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

func unknownCommand(cmd *cobra.Command, word string) error {
	known := verbNames(cmd)
	hint := "want " + strings.Join(known, ", ")
	if near := model.Near(word, known); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, ", ") + "?"
	}
	return usage(cmd, "unknown command %q; %s", cmd.CommandPath()+" "+word, hint)
}

// flagError explains what pflag could not parse.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	// The flags of a misspelt verb are unknown to its noun; the verb is what is wrong.
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
		name := "--" + unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		if near := model.Near(name, known); len(near) > 0 {
			return usage(cmd, "unknown flag %s; did you mean %s?", name, strings.Join(near, ", "))
		}
		return usage(cmd, "unknown flag %s", name)
	}
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		return invalid("--%s %q: not a %s", value.GetFlag().Name, value.GetValue(), value.GetFlag().Value.Type())
	}
	return usage(cmd, "%v", err)
}

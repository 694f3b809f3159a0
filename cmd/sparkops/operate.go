package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sparkops/control-plane/commands"
	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/readmodels"
)

func migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Prepare the database; safe to repeat, and while nodes run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			if cfg.DatabaseURL == "" {
				found, _, err := attached(cfg)
				if err != nil {
					return err
				}
				cfg = found
			}
			ctx := cmd.Context()
			step := func(ctx context.Context) error { return readmodels.Migrate(ctx, cfg.DatabaseURL) }
			if err := awaitDependency(ctx, newLogger(cfg), "Postgres", step); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the database is ready; the projections build their tables when a node with the role projector starts")
			return nil
		},
	}
}

func userCommand() *cobra.Command {
	users := &cobra.Command{Use: "user", Short: "Manage users"}
	var email, name, role, passwordFile string
	create := &cobra.Command{
		Use:   "create",
		Short: "Create a user with any role",
		Long: `Creates a user directly, for the first administrator or from a script. The
password is read from --password-file ("-": standard input), or asked for.`,
		Example: `  sparkops user create --email ops@example.com --name Ops --role operator
  pwgen 32 1 | sparkops user create --email ci@example.com --name CI --password-file -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return exitError{2, err}
			}
			password, err := readPassword(passwordFile, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return exitError{2, err}
			}
			b, err := attach(cmd.Context(), cfg, newLogger(cfg))
			if err != nil {
				return err
			}
			defer b.close(context.WithoutCancel(cmd.Context()))
			ctx := commands.WithActor(cmd.Context(), domain.Process("cli"))
			created, _, err := b.handler.CreateUser(ctx, user.Registration{Email: email, Name: name, Password: password, Role: domain.Role(role)})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), created.ID)
			return nil
		},
	}
	create.Flags().StringVar(&email, "email", "", "e-mail address, the name to sign in with")
	create.Flags().StringVar(&name, "name", "", "name shown to others")
	create.Flags().StringVar(&role, "role", string(domain.Viewer), "owner, admin, developer, viewer, auditor or operator")
	create.Flags().StringVar(&passwordFile, "password-file", "", `file with the password; "-" is standard input`)
	_ = create.MarkFlagRequired("email")
	_ = create.MarkFlagRequired("name")
	_ = create.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(user.Roles, cobra.ShellCompDirectiveNoFileComp))
	users.AddCommand(create)
	return users
}

func readPassword(file string, in io.Reader, prompt io.Writer) (string, error) {
	switch {
	case file == "-":
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return strings.TrimRight(string(data), "\r\n"), nil
	case isTerminal(os.Stdin):
		fmt.Fprint(prompt, "Password: ")
		data, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(prompt)
		return string(data), err
	default:
		return "", errors.New("no terminal to ask for the password on: give --password-file")
	}
}

package main

import (
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"
)

var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// newLogger writes to standard error: text on a terminal, JSON lines
// otherwise, unless the format is set.
func newLogger(cfg Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: logLevels[strings.ToLower(cfg.LogLevel)]}
	format := cfg.LogFormat
	if format == "" {
		format = "json"
		if isTerminal(os.Stderr) {
			format = "text"
		}
	}
	if format == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, options))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, options))
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

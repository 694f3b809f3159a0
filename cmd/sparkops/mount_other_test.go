//go:build !linux

package main

import (
	"errors"
	"testing"
)

// mountMemory is for Linux only.
func mountMemory(testing.TB, string, int) error { return errors.ErrUnsupported }

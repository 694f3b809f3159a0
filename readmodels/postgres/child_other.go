//go:build !linux

package postgres

import "syscall"

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

func guard(pid int, s syscall.Signal) (func(), error) { return watchdog(pid, s) }

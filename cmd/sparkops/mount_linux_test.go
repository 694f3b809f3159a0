package main

import (
	"strconv"
	"syscall"
	"testing"
)

// mountMemory mounts a file system of so many bytes until the test ends.
func mountMemory(t testing.TB, dir string, bytes int) error {
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size="+strconv.Itoa(bytes))
	if err == nil {
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
	return err
}

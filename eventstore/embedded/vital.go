package embedded

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// vitalFS keeps from storage the errors that it cannot bear. To a failed write, sync or change of its log files Pebble
// answers with a panic, partly in ways that nobody can recover from. Once armed, such an error goes to die instead,
// which normally ends the process, and the operation never returns. Before, while storage opens, errors pass.
type vitalFS struct {
	vfs.FS
	armed *atomic.Bool
	die   func(msg string)
}

func isVital(name string) bool { return strings.HasSuffix(name, logFileSuffix) }

func (v vitalFS) check(operation, name string, err error) error {
	if err != nil && v.armed.Load() {
		v.die(fmt.Sprintf("%s %s: %v", operation, name, err))
		select {}
	}
	return err
}

func (v vitalFS) wrap(file vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, v.check("create", name, err)
	}
	return vitalFile{File: file, fs: v, name: name}, nil
}

// Create implements vfs.FS.
func (v vitalFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := v.FS.Create(name, category)
	if !isVital(name) {
		return file, err
	}
	return v.wrap(file, name, err)
}

// ReuseForWrite implements vfs.FS.
func (v vitalFS) ReuseForWrite(oldName, newName string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := v.FS.ReuseForWrite(oldName, newName, category)
	if !isVital(newName) {
		return file, err
	}
	return v.wrap(file, newName, err)
}

// OpenDir implements vfs.FS. A directory is opened to sync the names of files in it.
func (v vitalFS) OpenDir(name string) (vfs.File, error) {
	file, err := v.FS.OpenDir(name)
	return v.wrap(file, name, err)
}

// Unwrap lets vfs.Root find the file system beneath.
func (v vitalFS) Unwrap() vfs.FS { return v.FS }

type vitalFile struct {
	vfs.File
	fs   vitalFS
	name string
}

// Write implements vfs.File.
func (f vitalFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.fs.check("write", f.name, err)
}

// Sync implements vfs.File.
func (f vitalFile) Sync() error { return f.fs.check("sync", f.name, f.File.Sync()) }

// SyncData implements vfs.File.
func (f vitalFile) SyncData() error { return f.fs.check("sync", f.name, f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f vitalFile) SyncTo(length int64) (fullSync bool, err error) {
	fullSync, err = f.File.SyncTo(length)
	return fullSync, f.fs.check("sync", f.name, err)
}

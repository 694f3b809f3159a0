package embedded

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// prefillFS fills new log files with zeros ahead of what is written to them. Syncing a write that overwrites blocks
// which the file has already costs the disk one write; a write that makes the file longer makes it write the file
// system's own records too, which takes about twice as long. Storage recycles its log files, so this matters for the
// first few files of a process only, that is, most of the time in a process that writes little.
//
// Log files are made to be read up to where their records end, whatever follows.
type prefillFS struct {
	vfs.FS
	step int64 // how far ahead; 0 leaves files alone
}

const (
	defaultPrefill = 1 << 20
	logFileSuffix  = ".log"
	prefillAtStart = 4 // steps
)

// Create implements vfs.FS.
func (p prefillFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := p.FS.Create(name, category)
	if err != nil || p.step == 0 || !strings.HasSuffix(name, logFileSuffix) {
		return file, err
	}
	f := &prefilledFile{File: file, zeros: make([]byte, p.step)}
	for range prefillAtStart {
		f.extend()
	}
	if f.zeros != nil {
		// So that the first synced write does not have to wait for all the zeros.
		if err := file.Sync(); err != nil {
			f.zeros = nil
		}
	}
	return f, nil
}

// Unwrap lets vfs.Root find the file system beneath.
func (p prefillFS) Unwrap() vfs.FS { return p.FS }

// prefilledFile is a log file; its owner writes it from one goroutine at a time.
type prefilledFile struct {
	vfs.File
	written int64
	filled  int64
	zeros   []byte // nil once filling failed: the file then grows as any other
}

// Write implements vfs.File.
func (f *prefilledFile) Write(b []byte) (int, error) {
	if f.zeros != nil && f.written+int64(len(b)) > f.filled {
		f.filled = f.written + int64(len(b))
		f.extend()
	}
	n, err := f.File.Write(b)
	f.written += int64(n)
	return n, err
}

// extend fills the next step. It can fail without harm: a write that needs the space will say so itself.
func (f *prefilledFile) extend() {
	if f.zeros == nil {
		return
	}
	n, err := f.File.WriteAt(f.zeros, f.filled)
	f.filled += int64(n)
	if err != nil {
		f.zeros = nil
	}
}

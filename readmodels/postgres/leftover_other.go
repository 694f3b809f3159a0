//go:build !linux

package postgres

import (
	"os/exec"
	"strconv"
	"strings"
)

// commandLine returns the arguments of a process, none when it is gone. ps
// joins them with blanks: an argument with a blank in it comes back in pieces,
// which are joined again as far as the flag after "-D" needs it.
func commandLine(pid int) []string {
	out, err := exec.Command("/bin/ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil
	}
	program, rest, ok := strings.Cut(strings.TrimSpace(string(out)), " -D ")
	if !ok {
		return strings.Fields(program)
	}
	dir, tail, _ := strings.Cut(rest, " -k ")
	return append([]string{program, "-D", dir, "-k"}, strings.Fields(tail)...)
}

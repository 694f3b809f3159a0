package postgres

import (
	"os"
	"strconv"
	"strings"
)

// commandLine returns the arguments of a process, none when it is gone (or a
// zombie, which holds nothing any more).
func commandLine(pid int) []string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}

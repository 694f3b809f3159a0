package postgres

import (
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// watchdogScript waits for the end of its standard input, which is the end of
// the process that holds the pipe, then sends the signal.
const watchdogScript = `trap '' HUP INT TERM; read -r _; kill -"$1" "$2" 2>/dev/null`

// watchdog starts a shell that signals pid when this process ends, for systems
// whose kernel does not do that. The returned function ends the shell without
// a signal; call it once pid has ended.
func watchdog(pid int, s syscall.Signal) (func(), error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "sparkops-watchdog", strconv.Itoa(int(s)), strconv.Itoa(pid))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is not for it
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe of the watchdog: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = hold.Close()
	}, nil
}

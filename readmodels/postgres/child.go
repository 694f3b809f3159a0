package postgres

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process that does not outlive this one.
type child struct {
	cmd   *exec.Cmd
	log   *childLog
	guard func() // ends what ends the child; nil where the kernel does it

	done chan struct{} // closed when the process ended
	err  error         // its exit, set before done is closed
}

// startChild starts cmd with the account's rights, a cleaned environment and
// its output going to log. When this process ends the child receives death.
//
// The goroutine that starts it keeps its thread and waits on it: Linux sends
// the parent death signal when the starting thread ends, not the process.
func startChild(cmd *exec.Cmd, a *account, death syscall.Signal, log *slog.Logger) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.Dir = "/" // ours may be closed to the account
	cmd.Env = childEnv(os.Environ())
	cmd.SysProcAttr = a.attributes()
	setDeathSignal(cmd.SysProcAttr, death)

	c := &child{cmd: cmd, log: &childLog{out: log}, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := cmd.Start()
		_ = w.Close()
		if err == nil {
			c.guard, err = guard(cmd.Process.Pid, death)
			if err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		}
		started <- err
		if err != nil {
			_ = r.Close()
			return
		}
		c.wait(r)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

func (c *child) wait(output *os.File) {
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		c.log.read(output)
	}()
	c.err = c.cmd.Wait()
	if c.guard != nil {
		c.guard()
	}
	// Backends may hold the other end a little longer than the postmaster lives.
	_ = output.SetReadDeadline(time.Now().Add(2 * time.Second))
	<-logged
	_ = output.Close()
	close(c.done)
}

// signal is safe after the end of the process.
func (c *child) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

// ended reports without waiting.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// childEnv drops what would change Postgres's mind: settings of a client or
// server of the user (PG…) and the locale.
func childEnv(env []string) []string {
	kept := []string{"LC_ALL=C", "TZ=UTC"}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE" || name == "TZ" {
			continue
		}
		kept = append(kept, kv)
	}
	return kept
}

// childLog passes the lines a child prints to the log and keeps the last ones,
// they say why it ended.
type childLog struct {
	out *slog.Logger

	mu   sync.Mutex
	last []string
}

const keptLines = 12

func (l *childLog) read(r io.Reader) {
	lines := bufio.NewReaderSize(r, 16<<10)
	for {
		line, _, err := lines.ReadLine() // a longer line comes in pieces
		if text := strings.TrimSpace(string(line)); text != "" {
			l.add(text)
		}
		if err != nil { // the end, or the deadline set after the child ended
			return
		}
	}
}

func (l *childLog) add(text string) {
	l.mu.Lock()
	if n := len(l.last); n == 0 || l.last[n-1] != text { // each backend says the same
		l.last = append(l.last, text)
	}
	if len(l.last) > keptLines {
		l.last = l.last[1:]
	}
	l.mu.Unlock()
	level := slog.LevelDebug
	switch {
	case strings.Contains(text, "PANIC:"):
		level = slog.LevelError
	case strings.Contains(text, "WARNING:"):
		// FATAL ends one connection only, whose client reports it; and when it
		// ends the server, the last lines are part of Err.
		level = slog.LevelWarn
	}
	l.out.Log(context.Background(), level, "postgres: "+text)
}

func (l *childLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, " | ")
}

// terminate ends a child that is a Postgres server: fast shutdown, then
// immediate when the context ends first, then the hard way. It returns the
// context's error when it had to go beyond the fast shutdown.
func (c *child) terminate(ctx context.Context) error {
	c.signal(syscall.SIGINT)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.signal(syscall.SIGQUIT)
	select {
	case <-c.done:
	case <-time.After(10 * time.Second): // Postgres itself kills its backends after 5
		c.signal(syscall.SIGKILL)
		<-c.done
	}
	return errors.Join(errors.New("postgres did not shut down in time and was stopped at once; it will recover at the next start"), context.Cause(ctx))
}

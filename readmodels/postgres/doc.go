// Package postgres runs the private Postgres of the embedded mode and of
// tests: a child process that belongs to this process alone.
//
// The child listens on a unix socket in a directory only its own user (and
// root) may enter, never on the network. Postgres refuses to run as root, so
// a root parent starts it as the user "postgres", or "nobody" where that does
// not exist. It ends with its parent, even when the parent is killed: on Linux
// by the kernel's parent death signal, elsewhere by a watchdog shell that holds
// the other end of a pipe.
//
// What is kept below Options.Dir:
//
//	lock     held (flock) as long as a Server uses the directory
//	pgdata   the cluster; it appears by a rename once it is complete
//	run      the socket, unless the path would be too long for one
//
// pgdata is a symbolic link to a folder below /var/lib/sparkops when the user
// that Postgres runs as may not reach Dir (a checkout below /root, say).
// Everything in the cluster is a read model: deleting pgdata loses nothing that
// the event log cannot rebuild, and Server.Rebuilt tells that it happened.
package postgres

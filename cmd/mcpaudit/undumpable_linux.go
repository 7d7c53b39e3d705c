package main

import "golang.org/x/sys/unix"

// undumpable keeps other processes of this user from reading this one's memory and
// environment (/proc/PID/environ, ptrace): a server that is wrapped runs as the same
// user, and does what an agent makes it do. Root still can.
func undumpable() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

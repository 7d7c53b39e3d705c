//go:build !linux

package main

// undumpable does nothing where the system has no such thing.
func undumpable() {}

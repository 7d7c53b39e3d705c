//go:build !linux

package alerttest

import "syscall"

// dieWithParent is what Linux alone has; elsewhere servers outlive a test process that
// is killed.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

//go:build !linux

package kafkatest

import "syscall"

// dieWithParent is what Linux alone has; elsewhere brokers outlive a test process that
// is killed.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

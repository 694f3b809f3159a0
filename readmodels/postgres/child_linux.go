package postgres

import "syscall"

func setDeathSignal(attr *syscall.SysProcAttr, s syscall.Signal) { attr.Pdeathsig = s }

// guard has nothing to do: the kernel sends the parent death signal.
func guard(int, syscall.Signal) (func(), error) { return nil, nil }

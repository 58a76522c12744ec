package worker

import "golang.org/x/sys/unix"

var allowedArch = []uintptr{unix.SYS_PPOLL}

// Program gitopsd-render renders what strangers wrote, in a sandbox, for the process that started it. It speaks
// frames on stdin and stdout (internal/render/wire) and is of no use to people.
package main

import (
	"fmt"
	"os"
	"syscall"
	_ "time/tzdata" // dates in templates: a worker opens no zone file

	"github.com/gitopsd/gitopsd/internal/render/worker"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gitopsd-render:", err)
		os.Exit(1)
	}
}

// run talks over pipes that the Go runtime polls: a thread that sleeps in a read can hold up the garbage collector (docs/design/rendering.md, "A worker that waits").
func run() error {
	for _, fd := range []int{syscall.Stdin, syscall.Stdout} {
		if err := syscall.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("prepare the pipes to the parent: %w", err)
		}
	}
	return worker.Run(os.NewFile(uintptr(syscall.Stdin), "stdin"), os.NewFile(uintptr(syscall.Stdout), "stdout"))
}

// Program gitopsd-render renders what strangers wrote, in a sandbox, for the process that started it. It speaks
// frames on stdin and stdout (internal/render/wire) and is of no use to people.
package main

import (
	"fmt"
	"os"
	_ "time/tzdata" // dates in templates: a worker opens no zone file

	"github.com/gitopsd/gitopsd/internal/render/worker"
)

func main() {
	if err := worker.Run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gitopsd-render:", err)
		os.Exit(1)
	}
}

// Guest is what runs in the containers of the tests.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	switch os.Args[1] {
	case "serve": // print the environment and a file, then wait to be asked to end
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		fmt.Println("greeting:", os.Getenv("GREETING"))
		b, err := os.ReadFile(os.Args[2])
		fmt.Println("file:", string(b), err)
		<-asked
		fmt.Println("asked to end")
	case "cat":
		b, err := os.ReadFile(os.Args[2])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Print(string(b))
	case "eat": // more memory than there is
		var all []string
		for {
			all = append(all, strings.Repeat(fmt.Sprint(len(all)%10), 1<<20))
		}
	case "last-words":
		_ = os.WriteFile("/dev/termination-log", []byte("it was nice"), 0o600)
		os.Exit(4)
	}
}

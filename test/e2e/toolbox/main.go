// toolbox is what the tests' containers run: one program with the few verbs that a shell would be used for.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: app VERB [ARGS]")
	}
	verb, args := os.Args[1], os.Args[2:]
	switch verb {
	case "sleep": // until SIGTERM
		wait(func() {})
	case "stubborn": // SIGTERM is ignored, once it has said so
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ignores SIGTERM")
		time.Sleep(time.Hour) // an empty select would be a deadlock, and the end
	case "farewell": // writes a file when it is asked to end
		wait(func() { write(args[0], "farewell") })
	case "exit":
		code, _ := strconv.Atoi(args[0])
		fmt.Println("exits with", code)
		os.Exit(code)
	case "exitonce": // fails while the file is absent, and makes it
		if _, err := os.Stat(args[0]); err != nil {
			write(args[0], "once")
			fail("first time")
		}
		wait(func() {})
	case "env":
		env := os.Environ()
		sort.Strings(env)
		fmt.Println(strings.Join(env, "\n"))
	case "args":
		fmt.Println(strings.Join(args, "|"))
	case "cat":
		for _, f := range args {
			b, err := os.ReadFile(f)
			if err != nil {
				fail(err.Error())
			}
			fmt.Printf("%s\n", strings.TrimRight(string(b), "\n"))
		}
	case "ls":
		files, _ := filepath.Glob(args[0] + "/*")
		fmt.Println(strings.Join(files, "\n"))
	case "write":
		write(args[0], args[1])
	case "get":
		fmt.Println(get(args[0]))
	case "api": // the API as a pod sees it
		fmt.Println(api(args[0]))
	case "eat": // megabytes of memory
		n, _ := strconv.Atoi(args[0])
		b := make([]byte, n<<20)
		for i := range b {
			b[i] = byte(i)
		}
		wait(func() {})
	case "count": // lines for log tests
		n, _ := strconv.Atoi(args[0])
		for i := range n {
			fmt.Println("line", i)
		}
		wait(func() {})
	case "tick": // a line every 100 ms
		for i := 0; ; i++ {
			fmt.Println("tick", i)
			time.Sleep(100 * time.Millisecond)
		}
	case "flood": // once the file is there, megabytes of lines at once; then a line every 100 ms
		n, _ := strconv.Atoi(args[1])
		flood(args[0], n)
	case "grpc": // health over gRPC on port 9000: serving once the file is there
		serveHealth(args[0])
	case "serve": // the file's content, on port 8080 or another one
		http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
			if b, err := os.ReadFile(args[0]); err == nil {
				w.Write(b)
				return
			}
			http.Error(w, "no file "+args[0], http.StatusServiceUnavailable)
		})
		go http.ListenAndServe(":"+append(args[1:], "8080")[0], nil)
		wait(func() {})
	default:
		fail("unknown verb " + verb)
	}
}

func flood(file string, megabytes int) {
	fmt.Println("waits for", file)
	for _, err := os.Stat(file); err != nil; _, err = os.Stat(file) {
		time.Sleep(20 * time.Millisecond)
	}
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	line := strings.Repeat("x", 8191) + "\n"
	for range megabytes << 7 {
		_, _ = out.WriteString(line)
	}
	_ = out.Flush()
	for i := 0; ; i++ {
		fmt.Println("tick", i)
		time.Sleep(100 * time.Millisecond)
	}
}

// health answers by whether a file is there.
type health struct {
	healthpb.UnimplementedHealthServer
	file string
}

func (h health) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if _, err := os.Stat(h.file); err != nil {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func serveHealth(file string) {
	l, err := net.Listen("tcp", ":9000")
	if err != nil {
		fail(err.Error())
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health{file: file})
	go s.Serve(l)
	wait(s.Stop)
}

func wait(last func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, os.Interrupt)
	<-c
	last()
}

func write(name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		fail(err.Error())
	}
}

func get(url string) string {
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		fail(err.Error())
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

func api(path string) string {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		fail(err.Error())
	}
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		fail(err.Error())
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	req, err := http.NewRequest(http.MethodGet, "https://"+os.Getenv("KUBERNETES_SERVICE_HOST")+":"+os.Getenv("KUBERNETES_SERVICE_PORT")+path, nil)
	if err != nil {
		fail(err.Error())
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	resp, err := client.Do(req)
	if err != nil {
		fail(err.Error())
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.Status + " " + string(b)
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}

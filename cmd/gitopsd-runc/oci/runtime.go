// Package oci is the OCI runtime command line of a gitopsd node: what containerd's shim calls as `runc`, over
// github.com/opencontainers/runc/libcontainer.
//
// In: the arguments containerd/go-runc passes (--root, --log, --log-format, --systemd-cgroup; create, start, run, exec,
// kill, delete, state, ps, list, update, pause, resume, features, --version) and the bundle's config.json. Out: the
// command's effect, JSON on standard output, and errors both on standard error and as the last line of the log file, where
// go-runc looks for them. It refuses what no caller here needs: checkpoints, event streams, rootless containers,
// a terminal without a console socket.
package oci

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	_ "github.com/opencontainers/cgroups/devices" // lets the cgroup manager set device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
)

// invocation is one call of the command line: the global flags.
type invocation struct {
	root          string
	systemdCgroup bool
	out           io.Writer
}

// command is one of the runtime's commands. Its status is the exit status when there is no error.
type command func(inv *invocation, args []string) (status int, err error)

var commands = map[string]command{
	"create":   create,
	"delete":   remove,
	"exec":     execute,
	"features": features,
	"kill":     kill,
	"list":     list,
	"pause":    pause,
	"ps":       processes,
	"resume":   resume,
	"run":      run,
	"start":    start,
	"state":    state,
	"update":   update,
}

// execFailed is what exec ends with when the process could not be started, as runc's callers know it.
const execFailed = 255

// Main runs the command line args (without the program's name) and returns the exit status.
func Main(args []string) int {
	inv := &invocation{out: os.Stdout}
	set := newFlagSet("runc")
	set.StringVar(&inv.root, "root", "/run/runc", "directory of the containers' state")
	set.BoolVar(&inv.systemdCgroup, "systemd-cgroup", false, "cgroups through systemd")
	set.String("rootless", "auto", "accepted and ignored: containers are made by root")
	logFile := set.String("log", "", "file for the log instead of standard error")
	logFormat := set.String("log-format", "text", "text or json")
	debugLog := set.Bool("debug", false, "log more")
	version := set.Bool("version", false, "print the version")
	if err := set.Parse(args); err != nil {
		return fail(err, 1)
	}
	if *version {
		printVersion(inv.out)
		return 0
	}
	if err := setUpLog(*logFile, *logFormat, *debugLog); err != nil {
		return fail(err, 1)
	}
	name := set.Arg(0)
	run, ok := commands[name]
	if !ok {
		return fail(fmt.Errorf("unknown command %q: known are %s", name, strings.Join(commandNames(), ", ")), 1)
	}
	root, err := filepath.Abs(inv.root)
	if err != nil || root == "/" {
		return fail(fmt.Errorf("--root %q is not a directory for state", inv.root), 1)
	}
	inv.root = root
	status, err := run(inv, set.Args()[1:])
	if err != nil && name == "exec" {
		return fail(fmt.Errorf("exec: %w", err), execFailed)
	}
	if err != nil {
		return fail(fmt.Errorf("%s: %w", name, err), 1)
	}
	return status
}

func newFlagSet(name string) *flag.FlagSet {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // the error is reported once, by Main
	return set
}

func commandNames() []string {
	names := make([]string, 0, len(commands))
	for name := range commands {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func setUpLog(file, format string, debugLog bool) error {
	if debugLog {
		logrus.SetLevel(logrus.DebugLevel)
	}
	switch format {
	case "", "text":
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	default:
		return fmt.Errorf("unknown --log-format %q", format)
	}
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	logrus.SetOutput(f)
	return nil
}

// fail reports err where go-runc reads it (the log) and where people do (standard error).
func fail(err error, status int) int {
	logrus.Error(err)
	if logrus.StandardLogger().Out != os.Stderr {
		fmt.Fprintln(os.Stderr, err)
	}
	return status
}

func printVersion(w io.Writer) {
	fmt.Fprintf(w, "runc version %s\ncommit: gitopsd-runc\nspec: %s\ngo: %s\n", libcontainerVersion(), specs.Version, runtime.Version())
	if major, minor, micro := seccomp.Version(); major+minor+micro > 0 {
		fmt.Fprintf(w, "libseccomp: %d.%d.%d\n", major, minor, micro)
	}
}

// libcontainerVersion is the version of the runc module that is linked, without the v.
func libcontainerVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/opencontainers/runc" {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return "unknown"
}

// load opens the one container that args name.
func (inv *invocation) load(args []string) (*libcontainer.Container, error) {
	if len(args) < 1 || args[0] == "" {
		return nil, fmt.Errorf("a container's id is missing")
	}
	c, err := libcontainer.Load(inv.root, args[0])
	if err != nil {
		return nil, fmt.Errorf("load container %s: %w", args[0], err)
	}
	return c, nil
}

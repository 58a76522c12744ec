package oci

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"
)

// killWait is how long delete --force waits for the kernel to end a killed init.
const killWait = 10 * time.Second

// creation holds the flags that create and run share.
type creation struct {
	launch
	bundle       string
	noPivot      bool
	noNewKeyring bool
}

func (cr *creation) flags(set *flag.FlagSet) {
	set.StringVar(&cr.bundle, "bundle", ".", "directory of config.json")
	set.StringVar(&cr.bundle, "b", ".", "short for --bundle")
	set.StringVar(&cr.pidFile, "pid-file", "", "file for the pid of the process")
	set.StringVar(&cr.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	set.IntVar(&cr.preserveFDs, "preserve-fds", 0, "number of descriptors passed on")
	set.BoolVar(&cr.noPivot, "no-pivot", false, "no pivot_root: for a root file system in a ramdisk")
	set.BoolVar(&cr.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
}

func create(inv *invocation, args []string) (int, error) {
	cr := creation{launch: launch{init: true, detach: true}}
	set := newFlagSet("create")
	cr.flags(set)
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	_, _, err := cr.begin(inv, set.Arg(0), (*libcontainer.Container).Start)
	return 0, err
}

func run(inv *invocation, args []string) (int, error) {
	cr := creation{launch: launch{init: true}}
	set := newFlagSet("run")
	cr.flags(set)
	set.BoolVar(&cr.detach, "detach", false, "do not wait for the end")
	set.BoolVar(&cr.detach, "d", false, "short for --detach")
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	c, process, err := cr.begin(inv, set.Arg(0), (*libcontainer.Container).Run)
	if err != nil || cr.detach {
		return 0, err
	}
	status, err := wait(process)
	return status, errors.Join(err, c.Destroy())
}

// begin makes container id from the bundle and its first process by start. After an error nothing is left of it.
func (cr *creation) begin(inv *invocation, id string,
	start func(*libcontainer.Container, *libcontainer.Process) error,
) (*libcontainer.Container, *libcontainer.Process, error) {
	if id == "" {
		return nil, nil, errors.New("a container's id is missing")
	}
	if cr.pidFile != "" { // before the working directory changes
		abs, err := filepath.Abs(cr.pidFile)
		if err != nil {
			return nil, nil, err
		}
		cr.pidFile = abs
	}
	if err := os.Chdir(cr.bundle); err != nil { // libcontainer labels the container with the working directory
		return nil, nil, fmt.Errorf("enter bundle: %w", err)
	}
	spec, err := readSpec(".")
	if err != nil {
		return nil, nil, fmt.Errorf("read bundle: %w", err)
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: id, UseSystemdCgroup: inv.systemdCgroup, NoPivotRoot: cr.noPivot, NoNewKeyring: cr.noNewKeyring, Spec: spec,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read specification: %w", err)
	}
	c, err := libcontainer.Create(inv.root, id, config)
	if err != nil {
		return nil, nil, fmt.Errorf("make container %s: %w", id, err)
	}
	process, err := cr.launch.begin(spec.Process, func(p *libcontainer.Process) error { return start(c, p) })
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start first process of %s: %w", id, err), c.Destroy())
	}
	return c, process, nil
}

// wait waits for a process in the foreground, passes our signals on to it, and returns its exit status.
func wait(process *libcontainer.Process) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = process.Signal(s) // it may be gone already
			case <-done:
				return
			}
		}
	}()
	ps, err := process.Wait()
	if ps == nil {
		return 1, err
	}
	if ws := ps.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ps.ExitCode(), nil
}

func start(inv *invocation, args []string) (int, error) {
	c, err := inv.load(args)
	if err != nil {
		return 1, err
	}
	status, err := c.Status()
	if err != nil {
		return 1, err
	}
	if status != libcontainer.Created {
		return 1, fmt.Errorf("container %s is %s, not created", c.ID(), status)
	}
	return 0, c.Exec()
}

func kill(inv *invocation, args []string) (int, error) {
	set := newFlagSet("kill")
	all := set.Bool("all", false, "no error when nothing runs any more")
	set.BoolVar(all, "a", false, "short for --all")
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	c, err := inv.load(set.Args())
	if err != nil {
		return 1, err
	}
	sig, err := parseSignal(set.Arg(1))
	if err != nil {
		return 1, err
	}
	err = c.Signal(sig)
	if *all && errors.Is(err, libcontainer.ErrNotRunning) {
		return 0, nil
	}
	return 0, err
}

// parseSignal reads a signal's number or name, with or without SIG; none means SIGTERM.
func parseSignal(s string) (unix.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		return unix.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func remove(inv *invocation, args []string) (int, error) {
	set := newFlagSet("delete")
	force := set.Bool("force", false, "kill what runs")
	set.BoolVar(force, "f", false, "short for --force")
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	c, err := inv.load(set.Args())
	if errors.Is(err, libcontainer.ErrNotExist) {
		// A create that was cut off leaves a directory without a state.
		err = errors.Join(err, os.RemoveAll(filepath.Join(inv.root, filepath.Base(set.Arg(0)))))
		if *force {
			return 0, nil
		}
	}
	if err != nil {
		return 1, err
	}
	status, err := c.Status()
	if err != nil {
		return 1, err
	}
	switch {
	case *force, status == libcontainer.Created:
		return 0, killAndDestroy(c)
	case status == libcontainer.Stopped:
		return 0, c.Destroy()
	default:
		return 1, fmt.Errorf("container %s is %s: stop it first or use --force", c.ID(), status)
	}
}

// killAndDestroy ends every process of c, also those that outlived its init, and removes what c holds.
func killAndDestroy(c *libcontainer.Container) error {
	_ = c.Signal(unix.SIGKILL) // nothing may be running
	for end := time.Now().Add(killWait); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err := c.Signal(unix.Signal(0)); err != nil {
			return c.Destroy()
		}
	}
	return fmt.Errorf("container %s: init still runs %s after SIGKILL", c.ID(), killWait)
}

func pause(inv *invocation, args []string) (int, error) {
	c, err := inv.load(args)
	if err != nil {
		return 1, err
	}
	return 0, c.Pause()
}

func resume(inv *invocation, args []string) (int, error) {
	c, err := inv.load(args)
	if err != nil {
		return 1, err
	}
	return 0, c.Resume()
}

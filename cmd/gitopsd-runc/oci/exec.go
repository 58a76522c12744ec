package oci

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// execFlags describe the process of an exec that has no --process file: the container's own, with changes.
type execFlags struct {
	process string
	cwd     string
	user    string
	tty     bool
	env     []string
}

func execute(inv *invocation, args []string) (int, error) {
	var l launch
	var ef execFlags
	set := newFlagSet("exec")
	set.StringVar(&l.pidFile, "pid-file", "", "file for the pid of the process")
	set.StringVar(&l.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	set.IntVar(&l.preserveFDs, "preserve-fds", 0, "number of descriptors passed on")
	set.StringVar(&ef.process, "process", "", "file with an OCI process")
	set.StringVar(&ef.cwd, "cwd", "", "working directory")
	set.StringVar(&ef.user, "user", "", "uid[:gid]")
	ignorePaused := set.Bool("ignore-paused", false, "also in a paused container")
	for _, name := range []string{"detach", "d"} {
		set.BoolVar(&l.detach, name, false, "do not wait for the end")
	}
	for _, name := range []string{"tty", "t"} {
		set.BoolVar(&ef.tty, name, false, "with a terminal")
	}
	for _, name := range []string{"env", "e"} {
		set.Func(name, "NAME=value, repeatable", func(s string) error { ef.env = append(ef.env, s); return nil })
	}
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	c, err := inv.load(set.Args())
	if err != nil {
		return 1, err
	}
	if err := checkExecutable(c, *ignorePaused); err != nil {
		return 1, err
	}
	p, err := ef.read(c, set.Args()[1:])
	if err != nil {
		return 1, err
	}
	process, err := l.begin(p, c.Run)
	if err != nil || l.detach {
		return 0, err
	}
	return wait(process)
}

func checkExecutable(c *libcontainer.Container, ignorePaused bool) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status == libcontainer.Stopped || status == libcontainer.Paused && !ignorePaused {
		return fmt.Errorf("container %s is %s", c.ID(), status)
	}
	return nil
}

// read returns the process to run: the file's, or the container's own with args in the place of its arguments.
func (ef *execFlags) read(c *libcontainer.Container, args []string) (*specs.Process, error) {
	if ef.process != "" {
		return readProcess(ef.process)
	}
	bundle, ok := utils.SearchLabels(c.Config().Labels, "bundle")
	if !ok {
		return nil, errors.New("the container's state does not name its bundle")
	}
	spec, err := readSpec(bundle)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	p := spec.Process
	p.Args, p.Terminal = args, ef.tty
	p.Env = append(p.Env, ef.env...)
	if ef.cwd != "" {
		p.Cwd = ef.cwd
	}
	if err := setUser(&p.User, ef.user); err != nil {
		return nil, fmt.Errorf("read --user %q: %w", ef.user, err)
	}
	return p, checkProcess(p)
}

func setUser(u *specs.User, s string) error {
	if s == "" {
		return nil
	}
	uid, gid, hasGid := strings.Cut(s, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return err
	}
	u.UID = uint32(n)
	if !hasGid {
		return nil
	}
	if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
		return err
	}
	u.GID = uint32(n)
	return nil
}

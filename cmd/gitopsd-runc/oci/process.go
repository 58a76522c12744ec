package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

var rlimits = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

// launch says how a process is started and what becomes of its standard streams.
type launch struct {
	init          bool   // the container's first process
	detach        bool   // do not wait for the process
	pidFile       string // gets the process's pid, written whole or not at all
	consoleSocket string // gets the terminal's master, when the process has a terminal
	preserveFDs   int    // further descriptors the process inherits, from 3 on
}

// readProcess reads an OCI process from a file, as exec --process passes it.
func readProcess(path string) (*specs.Process, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	return &p, checkProcess(&p)
}

// readSpec reads config.json of a bundle.
func readSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	return &spec, checkProcess(spec.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("the specification has no process")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("working directory %q is not absolute", p.Cwd)
	case len(p.Args) == 0:
		return errors.New("the process has no arguments")
	}
	return nil
}

// newProcess translates an OCI process into libcontainer's.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile, NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority,
		LogLevel: strconv.Itoa(int(logrus.GetLevel())),
	}
	for _, gid := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(gid))
	}
	if s := p.ConsoleSize; s != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(s.Width), uint16(s.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		kind, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("unknown rlimit %q", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("read CPU affinity: %w", err)
	}
	lp.CPUAffinity = affinity
	return lp, nil
}

// begin starts p by start (Container.Start or Container.Run) with the streams that l asks for. After an error no process is left.
func (l *launch) begin(p *specs.Process, start func(*libcontainer.Process) error) (*libcontainer.Process, error) {
	lp, err := newProcess(p)
	if err != nil {
		return nil, err
	}
	lp.Init = l.init
	closeStreams, err := l.attach(p, lp)
	if err != nil {
		return nil, err
	}
	err = start(lp)
	closeStreams()
	if err != nil {
		return nil, err
	}
	if l.pidFile == "" {
		return lp, nil
	}
	if err := writePidFile(l.pidFile, lp); err != nil {
		_ = lp.Signal(unix.SIGKILL) // the caller could never find it
		_, _ = lp.Wait()
		return nil, fmt.Errorf("write pid file: %w", err)
	}
	return lp, nil
}

// attach gives lp its standard streams or its terminal, and returns what closes our copies once it runs.
func (l *launch) attach(p *specs.Process, lp *libcontainer.Process) (closeStreams func(), err error) {
	for i := range l.preserveFDs {
		fd := 3 + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("preserve descriptor %d of %d: %w", i+1, l.preserveFDs, err)
		}
		lp.ExtraFiles = append(lp.ExtraFiles, os.NewFile(uintptr(fd), "preserved:"+strconv.Itoa(fd)))
	}
	if !p.Terminal {
		if l.consoleSocket != "" {
			return nil, errors.New("--console-socket is for a process with a terminal")
		}
		lp.Stdin, lp.Stdout, lp.Stderr = os.Stdin, os.Stdout, os.Stderr
		return func() {}, nil
	}
	if l.consoleSocket == "" {
		return nil, errors.New("a process with a terminal needs --console-socket")
	}
	conn, err := net.Dial("unix", l.consoleSocket)
	if err != nil {
		return nil, fmt.Errorf("connect to console socket: %w", err)
	}
	socket, err := conn.(*net.UnixConn).File()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("pass console socket: %w", err)
	}
	lp.ConsoleSocket = socket
	return func() { socket.Close(); conn.Close() }, nil
}

// writePidFile writes the pid by rename: who waits for the file never reads half of it.
func writePidFile(path string, lp *libcontainer.Process) error {
	pid, err := lp.Pid()
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

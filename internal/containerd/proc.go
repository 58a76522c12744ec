package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// proc is one process of this instance, held by a descriptor: its number cannot come to mean another process.
type proc struct {
	pid int
	fd  *os.File
	exe string
}

// openProc holds the process pid, or returns an error that is unix.ESRCH when there is none.
func openProc(pid int) (*proc, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &proc{pid: pid, fd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid))}, nil
}

func (p *proc) close() { p.fd.Close() }

// signal sends sig; a process that has ended is no error.
func (p *proc) signal(sig unix.Signal) error {
	conn, err := p.fd.SyscallConn() // Fd would make the descriptor blocking
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// wait returns once the process has ended, or with the context's error. A child of ours is reaped.
func (p *proc) wait(ctx context.Context) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
	if ctx.Err() != nil && err != nil {
		_ = p.fd.SetReadDeadline(time.Time{})
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil) // ECHILD when it is not our child
	return nil
}

// end asks the process to end, kills it when it has not within grace (at once when that is 0), and waits for that.
func (p *proc) end(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if err := p.signal(unix.SIGTERM); err != nil {
			return err
		}
		polite, cancel := context.WithTimeout(ctx, grace)
		err := p.wait(polite)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.wait(ctx)
}

// find returns the running containerd of this instance, or nil. It is known by its arguments: ours alone name our config.toml.
func (c Config) find() (*proc, error) {
	ps, err := processes(func(args []string) bool {
		return len(args) >= 3 && filepath.Base(args[0]) == bundle.Containerd && args[1] == "--config" && args[2] == c.configFile()
	})
	if err != nil {
		return nil, fmt.Errorf("look for a running containerd: %w", err)
	}
	if len(ps) == 0 {
		return nil, nil
	}
	for _, p := range ps[1:] {
		p.close()
	}
	return ps[0], nil
}

// shims returns the running shims of this instance: those that report to its socket.
func (c Config) shims() ([]*proc, error) {
	return processes(func(args []string) bool {
		i := slices.Index(args, "-address")
		return filepath.Base(args[0]) == bundle.Shim && i > 0 && i+1 < len(args) && args[i+1] == c.Socket()
	})
}

// processes holds the processes of our own user whose arguments match, sorted by number. Zombies have none and never match.
func processes(match func(args []string) bool) ([]*proc, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []*proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !matches(pid, match) {
			continue
		}
		p, err := openProc(pid)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("open process %d: %w", pid, err)
		}
		if !matches(pid, match) { // the number may have been taken over before we held it
			p.close()
			continue
		}
		p.exe, _ = os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b *proc) int { return a.pid - b.pid })
	return found, nil
}

func matches(pid int, match func(args []string) bool) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	data, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(data) == 0 {
		return false
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Geteuid() {
		return false
	}
	return match(strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"))
}

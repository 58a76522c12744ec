package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lock is held by the one daemon of a data directory; the file holds its process id. The kernel gives it up when the
// process dies, however it dies.
type lock struct{ f *os.File }

// errRunning says that another daemon holds the lock.
type errRunning struct {
	dir string
	pid int
}

func (e errRunning) Error() string {
	return fmt.Sprintf("gitopsd already runs on %s (process %d); stop it with: gitopsd down --data-dir %s", e.dir, e.pid, e.dir)
}

func acquire(dataDir string) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := readPID(f)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errRunning{dataDir, pid}
		}
		return nil, fmt.Errorf("lock data directory %s: %w", dataDir, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("write lock of data directory %s: %w", dataDir, err)
		}
	}
	return &lock{f}, nil
}

func (l *lock) release() { l.f.Close() }

func readPID(f *os.File) int {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

// RunningPID is the process id of the daemon of dataDir, or 0 when none runs.
func RunningPID(dataDir string) (int, error) {
	if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	f, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return readPID(f), nil
	}
	return 0, err
}

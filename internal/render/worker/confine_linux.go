package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// nobody is the user a worker becomes that was started by root.
const nobody = 65534

// confine takes from this process what it does not need, from the weakest layer to the strongest, and says what
// holds and what could not be had. Each layer alone keeps a render from files and network; none is relied on alone.
func confine() (layers, gaps []string) {
	report := func(layer string, err error) {
		if err == nil {
			layers = append(layers, layer)
		} else {
			gaps = append(gaps, fmt.Sprintf("%s (%v)", layer, err))
		}
	}
	// The kernel keeps some of it for each thread (no new privileges, which the seccomp filter asks for): one thread
	// does all, and Landlock and seccomp bring it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	parent := os.Getppid()
	report("resource limits", limitResources())
	report("empty root", emptyRoot())
	report("no privileges", dropPrivileges())
	// A change of user takes the parent-death signal away, so it is asked for again; a parent that is gone by now
	// has closed the pipe, which ends this process as well.
	report("dies with its parent", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0))
	if os.Getppid() != parent {
		os.Exit(0)
	}
	report("no new privileges", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	report("Landlock", denyFiles())
	report("seccomp", filterSyscalls())
	os.Clearenv()
	return layers, gaps
}

func limitResources() error {
	set := func(what int, n uint64) error {
		return unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n})
	}
	errs := []error{
		set(unix.RLIMIT_CORE, 0),
		set(unix.RLIMIT_FSIZE, 0),
		set(unix.RLIMIT_NOFILE, 32),
		set(unix.RLIMIT_CPU, 3600),
	}
	// A backstop for a parent too busy to watch; RLIMIT_AS would not fit Go, which reserves far more than it uses.
	if n, err := strconv.ParseUint(os.Getenv("GITOPSD_RENDER_DATA"), 10, 64); err == nil && n > 0 && !raceEnabled {
		errs = append(errs, set(unix.RLIMIT_DATA, n))
	}
	return errors.Join(errs...)
}

// emptyRoot makes an empty, read-only file system the root, which takes a mount namespace of its own.
func emptyRoot() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if theirs, err := os.Readlink("/proc/" + strconv.Itoa(os.Getppid()) + "/ns/mnt"); err == nil && own == theirs {
		return errors.New("no mount namespace of its own")
	}
	if os.Getpid() != 1 {
		return errors.New("no PID namespace of its own")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("none", "/proc", "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k,nr_inodes=2,mode=555"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return errors.Join(unix.Chroot("/proc"), unix.Chdir("/"))
}

// dropPrivileges becomes nobody. Inside a user namespace it is nobody already.
func dropPrivileges() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
}

func denyFiles() error {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil {
		return err
	}
	if abi < 1 {
		return errors.New("not in this kernel")
	}
	return landlock.V11.BestEffort().Restrict()
}

package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/sirupsen/logrus"
)

// report is a container's state as runc's `state` and `list` print it; go-runc parses it.
type report struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func newReport(c *libcontainer.Container) (*report, error) {
	status, err := c.Status()
	if err != nil {
		return nil, fmt.Errorf("read status of %s: %w", c.ID(), err)
	}
	st, err := c.State()
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", c.ID(), err)
	}
	pid := st.InitProcessPid
	if status == libcontainer.Stopped {
		pid = 0 // it may be another process by now
	}
	bundle, annotations := utils.Annotations(st.Config.Labels)
	return &report{
		Version: st.Config.Version, ID: st.ID, Pid: pid, Status: status.String(), Bundle: bundle,
		Rootfs: st.Config.Rootfs, Created: st.Created, Annotations: annotations,
	}, nil
}

func state(inv *invocation, args []string) (int, error) {
	c, err := inv.load(args)
	if err != nil {
		return 1, err
	}
	r, err := newReport(c)
	if err != nil {
		return 1, err
	}
	enc := json.NewEncoder(inv.out)
	enc.SetIndent("", "  ")
	return 0, enc.Encode(r)
}

func list(inv *invocation, args []string) (int, error) {
	set := newFlagSet("list")
	format := set.String("format", "table", "table or json")
	set.StringVar(format, "f", "table", "short for --format")
	quiet := set.Bool("quiet", false, "ids only")
	set.BoolVar(quiet, "q", false, "short for --quiet")
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	reports, err := inv.reports()
	if err != nil {
		return 1, err
	}
	switch {
	case *quiet:
		for _, r := range reports {
			fmt.Fprintln(inv.out, r.ID)
		}
	case *format == "json":
		return 0, json.NewEncoder(inv.out).Encode(reports)
	case *format == "table":
		w := tabwriter.NewWriter(inv.out, 12, 1, 3, ' ', 0)
		fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED")
		for _, r := range reports {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", r.ID, r.Pid, r.Status, r.Bundle, r.Created.Format(time.RFC3339Nano))
		}
		return 0, w.Flush()
	default:
		return 1, fmt.Errorf("unknown --format %q", *format)
	}
	return 0, nil
}

// reports returns the containers of the root, sorted by id; what cannot be read is logged and left out.
func (inv *invocation) reports() ([]*report, error) {
	entries, err := os.ReadDir(inv.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	reports := []*report{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := libcontainer.Load(inv.root, e.Name())
		if err != nil {
			logrus.Warnf("load container %s: %v", e.Name(), err)
			continue
		}
		r, err := newReport(c)
		if err != nil {
			logrus.Warn(err)
			continue
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func processes(inv *invocation, args []string) (int, error) {
	set := newFlagSet("ps")
	format := set.String("format", "table", "table (one pid a line) or json")
	set.StringVar(format, "f", "table", "short for --format")
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	c, err := inv.load(set.Args())
	if err != nil {
		return 1, err
	}
	pids, err := c.Processes()
	if err != nil {
		return 1, err
	}
	if *format == "json" {
		return 0, json.NewEncoder(inv.out).Encode(pids)
	}
	fmt.Fprintln(inv.out, "PID")
	for _, pid := range pids {
		fmt.Fprintln(inv.out, pid)
	}
	return 0, nil
}

// Package podlogs keeps the log files of containers within bounds: a file that grew too big is set aside, the ones
// before it are compressed, and the oldest go.
package podlogs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Limits bound the logs of one container.
type Limits struct {
	Bytes int64 // of the file being written
	Files int   // that one included
}

// Rotate sets the log aside if it is too big. Reopen has the runtime write to a new file of the same name.
func (l Limits) Rotate(path string, now time.Time, reopen func() error) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < l.Bytes {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	old, err := l.trim(path)
	if err != nil {
		return err
	}
	for _, p := range old {
		if err := compress(p); err != nil {
			return err
		}
	}
	aside := path + "." + now.UTC().Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("set log aside: %w", err)
	}
	if err := reopen(); err != nil {
		// The runtime still writes to the old file: it keeps its name, so that nothing is lost.
		if back := os.Rename(aside, path); back != nil {
			return fmt.Errorf("reopen log: %w", errors.Join(err, back))
		}
		return fmt.Errorf("reopen log: %w", err)
	}
	return nil
}

// trim removes the oldest and returns those set aside that are not compressed yet.
func (l Limits) trim(path string) ([]string, error) {
	all, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, fmt.Errorf("list old logs: %w", err)
	}
	sort.Strings(all) // their names are their times
	keep := max(l.Files-2, 0)
	for len(all) > keep {
		if err := os.Remove(all[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove old log: %w", err)
		}
		all = all[1:]
	}
	var plain []string
	for _, p := range all {
		if strings.HasSuffix(p, ".tmp") {
			_ = os.Remove(p)
		} else if !strings.HasSuffix(p, ".gz") {
			plain = append(plain, p)
		}
	}
	return plain, nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open old log: %w", err)
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("compress old log: %w", err)
	}
	w := gzip.NewWriter(out)
	_, err = io.Copy(w, in)
	err = errors.Join(err, w.Close(), out.Close())
	if err == nil {
		err = os.Rename(tmp, path+".gz")
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("compress old log: %w", err)
	}
	return os.Remove(path)
}

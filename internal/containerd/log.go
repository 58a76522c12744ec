package containerd

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
)

// logLimit bounds the log; its predecessor, <log>.1, is bounded by the same.
const logLimit = 8 << 20

// rotate moves a log over half its limit away. Nobody writes to it.
func rotate(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < logLimit/2 {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Rename(path, path+".1")
}

// truncate empties a log over its limit, after copying it. Containerd holds it open and appends, so its next line is the
// first; what it writes in between is lost.
func truncate(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() < logLimit {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, io.LimitReader(in, logLimit)); err != nil {
		return err
	}
	return os.Truncate(path, 0)
}

// lastLine returns the last line of a log, for an error that has to say why containerd ended.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const tail = 4096
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		_, _ = f.Seek(-tail, io.SeekEnd)
	}
	data, _ := io.ReadAll(f)
	data = bytes.TrimSpace(data)
	if i := bytes.LastIndexByte(data, '\n'); i >= 0 {
		data = data[i+1:]
	}
	if len(data) == 0 {
		return "it wrote nothing to its log"
	}
	return string(data)
}

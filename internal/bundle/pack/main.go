// Command pack makes the archive that a build with the tag `bundle` embeds: `pack FROM TO` writes TO/bundle.tar.zst and
// TO/bundle.manifest from the programs in FROM.
//
// Same programs, same bytes: names are sorted, times and owners left out, files under several names packed once as hard links. When
// the manifest is already that of the programs, nothing is written.
package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack FROM TO")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(from, to string, out io.Writer) error {
	m, err := manifest(from)
	if err != nil {
		return err
	}
	for _, e := range m {
		fmt.Fprintf(out, "%6.1f MB  %s\n", float64(e.Size)/1e6, e.Name)
	}
	archive, text := filepath.Join(to, "bundle.tar.zst"), filepath.Join(to, "bundle.manifest")
	if old, err := os.ReadFile(text); err != nil || string(old) != m.String() || missing(archive) {
		_ = os.Remove(text) // it vouches for the archive
		if err := compress(archive, from, m); err != nil {
			return fmt.Errorf("write %s: %w", archive, err)
		}
		if err := os.WriteFile(text, []byte(m.String()), 0o644); err != nil {
			return err
		}
	}
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%6.1f MB  %s (%s)\n", float64(info.Size())/1e6, archive, m.Hash())
	return nil
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return err != nil
}

// manifest lists the programs of a folder; names that begin with a dot are the build script's own.
func manifest(dir string) (bundle.Manifest, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	var m bundle.Manifest
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		size, err := io.Copy(h, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		m = append(m, bundle.Entry{Name: e.Name(), Size: size, Sum: hex.EncodeToString(h.Sum(nil))})
	}
	return m, nil
}

func compress(path, dir string, m bundle.Manifest) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(bundle.Window))
	if err != nil {
		return err
	}
	if err := writeTar(z, dir, m); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func writeTar(w io.Writer, dir string, m bundle.Manifest) error {
	t := tar.NewWriter(w)
	first := map[string]string{} // sum → the name it was packed under
	for _, e := range m {
		h := &tar.Header{Name: e.Name, Mode: 0o755, Format: tar.FormatPAX}
		if name, ok := first[e.Sum]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, name
			if err := t.WriteHeader(h); err != nil {
				return err
			}
			continue
		}
		first[e.Sum] = e.Name
		h.Typeflag, h.Size = tar.TypeReg, e.Size
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(dir, e.Name))
		if err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return t.Close()
}

package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// pack makes an archive of programs; those of the same content become hard links.
func pack(t *testing.T, programs map[string]string) archive {
	t.Helper()
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	slices.Sort(names)
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	check(t, err)
	w := tar.NewWriter(z)
	var m Manifest
	first := map[string]string{}
	for _, name := range names {
		content := programs[name]
		sum := sha256.Sum256([]byte(content))
		m = append(m, Entry{Name: name, Size: int64(len(content)), Sum: hex.EncodeToString(sum[:])})
		h := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(content))}
		if link, ok := first[content]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, link, 0
			content = ""
		} else {
			first[content] = name
		}
		check(t, w.WriteHeader(h))
		_, err := w.Write([]byte(content))
		check(t, err)
	}
	check(t, w.Close())
	check(t, z.Close())
	return archive{manifest: m.String(), tarZstd: out.String()}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	return string(data)
}

func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	a := pack(t, map[string]string{"runc": "node", "shim": "node", "pause": "zzz"})
	p, err := a.unpack(dir)
	check(t, err)
	if got := read(t, p.Path("runc")) + read(t, p.Path("pause")); got != "nodezzz" {
		t.Errorf("programs hold %q", got)
	}
	one, err := os.Stat(p.Path("runc"))
	check(t, err)
	two, err := os.Stat(p.Path("shim"))
	check(t, err)
	if !os.SameFile(one, two) || one.Mode().Perm() != 0o755 {
		t.Errorf("runc and shim are not one executable file: %v, %v", one.Mode(), two.Mode())
	}
	check(t, p.Check("runc", "pause"))
	if err := p.Check("missing"); err == nil || !strings.Contains(err.Error(), "find program missing") {
		t.Errorf("error %v", err)
	}
	again, err := a.unpack(dir)
	check(t, err)
	after, err := os.Stat(again.Path("runc"))
	check(t, err)
	if again != p || !os.SameFile(one, after) {
		t.Error("unpacked once more")
	}
}

// Whatever was done to the folder, and whatever a killed process left, the next call has the right programs.
func TestUnpackRepairs(t *testing.T) {
	dir := t.TempDir()
	a := pack(t, map[string]string{"runc": "node", "pause": "zzz"})
	p, err := a.unpack(dir)
	check(t, err)
	for name, damage := range map[string]func() error{
		"a program is gone":      func() error { return os.Remove(p.Path("pause")) },
		"a program is cut short": func() error { return os.Truncate(p.Path("runc"), 1) },
		"not executable":         func() error { return os.Chmod(p.Path("runc"), 0o644) },
		"a link":                 func() error { os.Remove(p.Path("runc")); return os.Symlink("pause", p.Path("runc")) },
		"half unpacked":          func() error { return os.Mkdir(filepath.Join(dir, unpackPrefix+"1234"), 0o755) },
	} {
		check(t, damage())
		_, err := a.unpack(dir)
		check(t, err)
		if got := read(t, p.Path("runc")) + read(t, p.Path("pause")); got != "nodezzz" {
			t.Errorf("%s: programs hold %q", name, got)
		}
		if got := folders(t, dir); len(got) != 1 {
			t.Errorf("%s: folders %q", name, got)
		}
	}
}

// Old programs stay while a process runs from them.
func TestOldProgramsAreRemovedWhenNobodyRunsThem(t *testing.T) {
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	check(t, err)
	old, err := pack(t, map[string]string{"sleep": read(t, sleep)}).unpack(dir)
	check(t, err)
	cmd := exec.Command(old.Path("sleep"), "60")
	check(t, cmd.Start())
	next := pack(t, map[string]string{"sleep": "new"})
	p, err := next.unpack(dir)
	check(t, err)
	if old.Dir == p.Dir || len(folders(t, dir)) != 2 {
		t.Errorf("folders %q", folders(t, dir))
	}
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = next.unpack(dir)
	check(t, err)
	if got := folders(t, dir); len(got) != 1 || filepath.Join(dir, got[0]) != p.Dir {
		t.Errorf("folders %q", got)
	}
}

func TestUnpackAtTheSameTime(t *testing.T) {
	dir := t.TempDir()
	a := pack(t, map[string]string{"runc": strings.Repeat("node", 10000), "pause": "zzz"})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			p, err := a.unpack(dir)
			if err != nil {
				t.Error(err)
				return
			}
			if err := p.Check("runc", "pause"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := folders(t, dir); len(got) != 1 {
		t.Errorf("folders %q", got)
	}
}

func TestArchiveAndManifestMustAgree(t *testing.T) {
	good := pack(t, map[string]string{"runc": "node", "pause": "zzz"})
	other := pack(t, map[string]string{"runc": "evil", "pause": "zzz"})
	fewer := pack(t, map[string]string{"runc": "node"})
	for name, a := range map[string]archive{
		"other content":       {good.manifest, other.tarZstd},
		"a program missing":   {good.manifest, fewer.tarZstd},
		"a program too many":  {fewer.manifest, good.tarZstd},
		"a cut archive":       {good.manifest, good.tarZstd[:len(good.tarZstd)/2]},
		"no archive":          {good.manifest, "nonsense"},
		"no manifest":         {"", good.tarZstd},
		"a path in a name":    {"00 1 ../x\n", good.tarZstd},
		"a size that is none": {"00 x runc\n", good.tarZstd},
	} {
		dir := t.TempDir()
		if p, err := a.unpack(dir); err == nil {
			t.Errorf("%s: unpacked into %s", name, p.Dir)
		}
		if got := folders(t, dir); len(got) != 0 {
			t.Errorf("%s: left %q", name, got)
		}
	}
}

func TestExternalPrograms(t *testing.T) {
	if Embedded {
		t.Skip("this build carries programs")
	}
	t.Setenv(DirVariable, "")
	if _, err := Unpack(t.TempDir()); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "use make build") {
		t.Errorf("error %v", err)
	}
	t.Setenv(DirVariable, filepath.Join(t.TempDir(), "none"))
	if _, err := Unpack(t.TempDir()); err == nil {
		t.Error("a folder that is not there")
	}
	dir := t.TempDir()
	t.Setenv(DirVariable, dir)
	p, err := Unpack(t.TempDir())
	check(t, err)
	if p.Dir != dir {
		t.Errorf("programs in %s", p.Dir)
	}
}

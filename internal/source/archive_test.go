package source

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

func testShelf(t testing.TB, limits Limits) *shelf {
	t.Helper()
	s, err := openShelf(t.TempDir(), "test", limits.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pack puts a packed tar onto a shelf.
func pack(s *shelf, digest string, data []byte) (*archive, error) {
	return s.put(digest, func(p *packer) (about, error) {
		z, err := p.unzip(bytes.NewReader(data))
		if err == nil {
			err = p.tarball(z, false)
		}
		return about{Name: "1.0.0", Subject: "a test"}, err
	})
}

var someDigest = digestPrefix + strings.Repeat("ab", 32)

// An archive is a file system like any other, and the one that is opened anew is the one that was written.
func TestArchiveIsAFileSystem(t *testing.T) {
	s := testShelf(t, Limits{})
	data := sourcetest.Gzip(t, sourcetest.Tar(t,
		sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "a commit"}}},
		sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./"}},
		sourcetest.File("./apps/web/web.yaml", "kind: A\n"),
		sourcetest.File("apps/web/web.yaml", "kind: B\n"), // the later wins
		sourcetest.File("apps/run.sh", "#!\n"),
		sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeLink, Name: "apps/again.yaml", Linkname: "./apps/web/web.yaml"}},
		sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "apps/web"}},
		sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "apps/up", Linkname: "../apps/run.sh"}},
		sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeDir, Name: "empty/"}},
	))
	first, err := pack(s, someDigest, data)
	if err != nil {
		t.Fatal(err)
	}
	again := testReopened(t, s)
	for _, a := range []*archive{first, again} {
		if err := fstest.TestFS(a, "apps/web/web.yaml", "apps/again.yaml", "apps/run.sh", "link", "empty"); err != nil {
			t.Error(err)
		}
		for name, want := range map[string]string{"apps/web/web.yaml": "kind: B\n", "link/web.yaml": "kind: B\n", "apps/again.yaml": "kind: B\n", "apps/up": "#!\n"} {
			if got := read(t, a, name); got != want {
				t.Errorf("%s holds %q", name, got)
			}
		}
		if to, err := fs.ReadLink(a, "link"); err != nil || to != "apps/web" {
			t.Errorf("the link leads to %q, %v", to, err)
		}
	}
	if names := onDisk(t, s.dir); !slices.Equal(names, []string{strings.Repeat("ab", 32) + shelfExt, useFile}) {
		t.Errorf("on disk are %v", names)
	}
}

// testReopened reads what is on the shelf from its file.
func testReopened(t *testing.T, s *shelf) *archive {
	t.Helper()
	a, err := openArchive(s.file(someDigest))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func onDisk(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// What leads out of the archive, is no file, or is too much, is refused as a whole, and leaves nothing behind.
func TestHostileArchives(t *testing.T) {
	limits := Limits{Object: 1 << 20, Unpacked: 4 << 20, Entries: 100}
	var many []sourcetest.Packed
	for i := range 101 {
		many = append(many, sourcetest.File("f"+strconv.Itoa(i), ""))
	}
	of := func(kind byte, name, link string) sourcetest.Packed {
		return sourcetest.Packed{Header: tar.Header{Typeflag: kind, Name: name, Linkname: link}}
	}
	zeros := strings.Repeat("\x00", 1<<20)
	for name, c := range map[string]struct {
		files []sourcetest.Packed
		class error
		text  string
	}{
		"absolute":         {[]sourcetest.Packed{sourcetest.File("/etc/cron.d/x", "")}, ErrRefused, "absolute path"},
		"absolute windows": {[]sourcetest.Packed{sourcetest.File(`\etc\x`, "")}, ErrRefused, "absolute path"},
		"traversal":        {[]sourcetest.Packed{sourcetest.File("../../x", "")}, ErrRefused, "leads out of"},
		"hidden traversal": {[]sourcetest.Packed{sourcetest.File("a/../../x", "")}, ErrRefused, "leads out of"},
		"device":           {[]sourcetest.Packed{of(tar.TypeChar, "null", "")}, ErrRefused, "neither a file nor"},
		"block device":     {[]sourcetest.Packed{of(tar.TypeBlock, "sda", "")}, ErrRefused, "neither a file nor"},
		"pipe":             {[]sourcetest.Packed{of(tar.TypeFifo, "pipe", "")}, ErrRefused, "neither a file nor"},
		"below a link":     {[]sourcetest.Packed{of(tar.TypeSymlink, "a", "/etc"), sourcetest.File("a/passwd", "")}, ErrRefused, "below what is no folder"},
		"below a file":     {[]sourcetest.Packed{sourcetest.File("a", ""), sourcetest.File("a/b", "")}, ErrRefused, "below what is no folder"},
		"file and folder":  {[]sourcetest.Packed{sourcetest.File("a/b", ""), sourcetest.File("a", "")}, ErrRefused, "both a file and a folder"},
		"hard link out":    {[]sourcetest.Packed{of(tar.TypeLink, "a", "/etc/passwd")}, ErrRefused, "absolute path"},
		"hard link ahead":  {[]sourcetest.Packed{of(tar.TypeLink, "a", "b"), sourcetest.File("b", "")}, ErrRefused, "did not come before"},
		"hard link to dir": {[]sourcetest.Packed{of(tar.TypeDir, "d", ""), of(tar.TypeLink, "a", "d")}, ErrRefused, "no file"},
		"git":              {[]sourcetest.Packed{sourcetest.File("a/.GIT/config", "")}, ErrRefused, "Git's own"},
		"no name":          {[]sourcetest.Packed{sourcetest.File(".", "")}, ErrRefused, "stands for the root"},
		"link as root":     {[]sourcetest.Packed{of(tar.TypeSymlink, "./", "/etc")}, ErrRefused, "stands for the root"},
		"deep":             {[]sourcetest.Packed{sourcetest.File(strings.Repeat("d/", 70)+"x", "")}, ErrRefused, "too long"},
		"many":             {many, ErrTooLarge, "more than 100 files"},
		"large":            {[]sourcetest.Packed{sourcetest.File("x", zeros+"x")}, ErrTooLarge, "1048577 bytes"},
		"large together":   {[]sourcetest.Packed{sourcetest.File("1", zeros), sourcetest.File("2", zeros), sourcetest.File("3", zeros), sourcetest.File("4", zeros), sourcetest.File("5", "x")}, ErrTooLarge, "together"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testShelf(t, limits)
			_, err := pack(s, someDigest, sourcetest.Gzip(t, sourcetest.Tar(t, c.files...)))
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.class, c.text)
			}
			if names := onDisk(t, s.dir); !slices.Equal(names, []string{useFile}) {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

// A link that leads out is there, and is an error for who goes through it.
func TestArchiveLinksStayWithin(t *testing.T) {
	s := testShelf(t, Limits{})
	link := func(name, to string) sourcetest.Packed {
		return sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}}
	}
	a, err := pack(s, someDigest, sourcetest.Gzip(t, sourcetest.Tar(t, link("passwd", "/etc/passwd"), link("d/up", "../../etc/passwd"), link("circle", "circle"),
		sourcetest.File("d/real", "x"), link("d/there", "real"))))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"passwd", "d/up", "circle"} {
		if data, err := fs.ReadFile(a, name); !errors.Is(err, ErrRefused) {
			t.Errorf("%s gives %q, %v", name, data, err)
		}
	}
	if a.direct("d/there") || !a.direct("d/real") || !a.direct("d/absent") {
		t.Error("direct does not see links")
	}
	if got := read(t, a, "d/there"); got != "x" {
		t.Errorf("d/there holds %q", got)
	}
}

// A bomb is found while it inflates: neither disk nor memory see what it would become.
func TestArchiveBombs(t *testing.T) {
	zeros := strings.Repeat("\x00", 8<<20)
	var files []sourcetest.Packed
	for i := range 10 {
		files = append(files, sourcetest.File("f"+strconv.Itoa(i), zeros))
	}
	bomb := sourcetest.Gzip(t, sourcetest.Tar(t, files...))
	_, err := pack(testShelf(t, Limits{}), someDigest, bomb)
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "bomb") {
		t.Errorf("a bomb of %d bytes: %v", len(bomb), err)
	}
	_, err = pack(testShelf(t, Limits{Unpacked: 1 << 20}), someDigest, bomb)
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("under a small limit: %v", err)
	}
}

func TestBrokenArchives(t *testing.T) {
	good := sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("a", strings.Repeat("text ", 1000))))
	for name, data := range map[string][]byte{"no gzip": []byte("hello"), "torn": good[:len(good)/2], "empty": nil, "no tar": sourcetest.Gzip(t, bytes.Repeat([]byte("x"), 4096))} {
		if _, err := pack(testShelf(t, Limits{}), someDigest, data); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a disk has lost is no answer: the file goes, and is fetched again.
func TestDamagedShelf(t *testing.T) {
	s := testShelf(t, Limits{})
	if _, err := pack(s, someDigest, sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("a", "hello")))); err != nil {
		t.Fatal(err)
	}
	name := s.file(someDigest)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	put := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s.open = nil
		s.open = testShelf(t, Limits{}).open
	}
	for _, n := range []int{0, 10, len(whole) / 2, len(whole) - 1} {
		put(whole[:n])
		if _, err := s.at(someDigest); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	put(append([]byte("jello"), whole[5:]...))
	a, err := s.at(someDigest)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := fs.ReadFile(a, "a"); !errors.Is(err, ErrStorage) {
		t.Errorf("damaged content gives %q, %v", data, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged file is there: %v", err)
	}
}

// What was not used for longest goes first; who holds it reads on.
func TestShelfForgets(t *testing.T) {
	s := testShelf(t, Limits{})
	digest := func(i int) string {
		return digestPrefix + strings.Repeat("0", 62) + string("0123456789abcdef"[i/16]) + string("0123456789abcdef"[i%16])
	}
	first, err := pack(s, digest(0), sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("a", "first"))))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= commitsKept+2; i++ {
		runtime.GC()
		if _, err := pack(s, digest(i), sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("a", "x")))); err != nil {
			t.Fatal(err)
		}
	}
	if all := s.digests(); len(all) != commitsKept+1 || slices.Contains(all, digest(1)) {
		t.Errorf("kept: %v", all)
	}
	if got := read(t, first, "a"); got != "first" || !slices.Contains(s.digests(), digest(0)) {
		t.Errorf("who holds the oldest reads %q", got)
	}
	runtime.KeepAlive(first)
	s.limits.Kept = 1
	runtime.GC()
	if s.trim(); !slices.Equal(s.digests(), []string{digest(commitsKept + 2)}) {
		t.Errorf("kept of what weighs too much: %v", s.digests())
	}
}

func TestChangedArchives(t *testing.T) {
	s := testShelf(t, Limits{})
	a, err := pack(s, digestPrefix+strings.Repeat("a", 64), sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("same/x", "1"), sourcetest.File("web/a", "1"), sourcetest.File("web/b", "1"), sourcetest.File("gone/x", "1"), sourcetest.File("turns", "1"))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := pack(s, digestPrefix+strings.Repeat("b", 64), sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("same/x", "1"), sourcetest.File("web/a", "2"), sourcetest.File("web/b", "1"), sourcetest.File("new/x", "1"), sourcetest.File("turns/x", "1"))))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := Changed(Snapshot{FS: a}, Snapshot{FS: b})
	slices.Sort(got)
	want := []string{".", "gone", "gone/x", "new", "new/x", "turns", "turns/x", "web/a"}
	if !ok || !slices.Equal(slices.Compact(got), want) {
		t.Errorf("changed: %v, want %v", got, want)
	}
}

func TestChangedLinksOfArchives(t *testing.T) {
	s := testShelf(t, Limits{})
	var all []Snapshot
	for i, files := range [][]sourcetest.Packed{
		{sourcetest.File("apps/a", "1"), sourcetest.File("common/v", "1")},
		{sourcetest.File("apps/a", "1"), sourcetest.File("common/v", "1"), {Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "apps/shared", Linkname: "../common"}}},
		{sourcetest.File("apps/a", "2"), sourcetest.File("common/v", "1"), {Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "apps/shared", Linkname: "../common"}}},
		{sourcetest.File("common/v", "1")},
	} {
		a, err := pack(s, digestPrefix+strings.Repeat(strconv.Itoa(i), 64), sourcetest.Gzip(t, sourcetest.Tar(t, files...)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Snapshot{FS: a})
	}
	for i, certain := range []bool{false, true, false} { // it comes; a file beside it changes; it goes with its folder
		if paths, ok := Changed(all[i], all[i+1]); ok != certain {
			t.Errorf("from %d to %d: certain is %v, %q", i, i+1, ok, paths)
		}
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(sourcetest.Gzip(f, sourcetest.Tar(f, sourcetest.File("a/b", "text"), sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "a/b"}})), false)
	f.Add(sourcetest.Gzip(f, sourcetest.Tar(f, sourcetest.File("chart/Chart.yaml", "name: x"))), true)
	f.Add([]byte{0x1f, 0x8b}, false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, strip bool) {
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		p := newPacker(out, Limits{Object: 1 << 20, Unpacked: 4 << 20, Entries: 1000})
		z, err := p.unzip(bytes.NewReader(data))
		if err != nil || p.tarball(z, strip) != nil {
			return
		}
		if err := p.finish(about{}); err != nil {
			t.Fatal(err)
		}
		a, err := openArchive(out.Name())
		if err != nil {
			t.Fatalf("what was packed does not open: %v", err)
		}
		defer a.file.Close()
		_ = fs.WalkDir(a, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || !fs.ValidPath(name) {
				t.Errorf("%q: %v", name, err)
			}
			if d.Type().IsRegular() {
				if _, err := fs.ReadFile(a, name); err != nil {
					t.Errorf("%q: %v", name, err)
				}
			}
			return nil
		})
	})
}

package source

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

func TestHostileURLsAndRefs(t *testing.T) {
	s := openStore(t, Limits{})
	for _, u := range []string{
		"", "--upload-pack=touch /tmp/x", "-oProxyCommand=x", "ext::sh -c id", "ext::x", "fd::17/foo", "git://host/x", "ftp://host/x",
		"http://", "ssh://-oProxyCommand=x/y", "-x@host:y", "git@-host:y", "git@host:-y", "ssh://git:pw@host/x", "relative/path", "./x",
		"https://host/x?y=z", "https://host/x#frag", "file://host/x", "https://host/\nx", "https://host\x00/x", "git@host:", "http://[::1",
	} {
		if _, err := s.Snapshot(t.Context(), Spec{URL: u}); !errors.Is(err, ErrRefused) {
			t.Errorf("URL %q: %v", u, err)
		}
	}
	for _, r := range []Ref{
		{Branch: "../../x"}, {Branch: "a..b"}, {Branch: "-x"}, {Branch: "a b"}, {Branch: "x.lock"}, {Branch: "a~1"}, {Branch: "a\x00b"}, {Branch: "/x"}, {Branch: "x/"},
		{Tag: "heads/../../x"}, {Tag: "v1:x"}, {Tag: "@{1}"}, {Commit: "abc"}, {Commit: strings.Repeat("g", 40)}, {Commit: "HEAD"}, {Branch: "a", Tag: "b"},
	} {
		if _, err := s.Snapshot(t.Context(), Spec{URL: "/tmp", Ref: r}); !errors.Is(err, ErrRefused) {
			t.Errorf("ref %+v: %v", r, err)
		}
	}
	for in, want := range map[string]string{
		"/a//b/":                      "file:///a/b",
		"file:///a/b":                 "file:///a/b",
		"https://U:p@Host:443/a.git/": "https://host/a.git",
		"git@Host:a/b.git":            "git@host:a/b.git",
		"ssh://git@host:22/a":         "ssh://git@host/a",
		"ssh://host:2222/a":           "ssh://git@host:2222/a",
		"host:a":                      "git@host:a",
		"http://host:80/x":            "http://host/x",
	} {
		if got, err := Canonical(in); err != nil || got != want {
			t.Errorf("Canonical(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// Trees that git itself would not make: written object by object.
func TestHostileTrees(t *testing.T) {
	r := newRepo(t)
	good := r.write("a", "1").commit("first")
	blob := r.git("hash-object", "-w", "a")
	raw := func(h string) string {
		b := plumbing.NewHash(h)
		return string(b[:])
	}
	object := func(kind string, content string) string {
		cmd := exec.Command("git", "hash-object", "-w", "-t", kind, "--literally", "--stdin")
		cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(content)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	commit := func(tree string) string {
		return object("commit", "tree "+tree+"\nauthor A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\nx\n")
	}
	for name, tree := range map[string]string{
		"dot git":         "100644 .git\x00" + raw(blob),
		"case variant":    "100644 .GiT\x00" + raw(blob),
		"short name":      "100644 GIT~1\x00" + raw(blob),
		"HFS":             "100644 .g\u200cit\x00" + raw(blob),
		"NTFS stream":     "100644 .git::$INDEX_ALLOCATION\x00" + raw(blob),
		"dot dot":         "100644 ..\x00" + raw(blob),
		"slash":           "100644 a/b\x00" + raw(blob),
		"twice":           "100644 a\x00" + raw(blob) + "100644 a\x00" + raw(blob),
		"file is missing": "100644 a\x00" + raw(strings.Repeat("12", 20)),
		"tree is missing": "40000 d\x00" + raw(strings.Repeat("12", 20)),
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, Limits{})
			r.git("update-ref", "refs/heads/bad", commit(object("tree", tree)))
			snap, err := s.Snapshot(t.Context(), Spec{URL: r.dir, Ref: Ref{Branch: "bad"}})
			if !errors.Is(err, ErrRefused) && !errors.Is(err, ErrBroken) {
				t.Fatalf("%+v %v", snap, err)
			}
			t.Log(err)
			if snap, err := s.Snapshot(t.Context(), Spec{URL: r.dir, Ref: Ref{Branch: "main"}}); err != nil || snap.Commit != good {
				t.Errorf("the good branch: %v", err)
			}
		})
	}
	r.git("update-ref", "refs/tags/blob", blob)
	if _, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: r.dir, Ref: Ref{Tag: "blob"}}); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("a tag on a file: %v", err)
	}
}

func TestLinksAndSubmodules(t *testing.T) {
	sub := newRepo(t)
	sub.write("x", "x").commit("sub")
	r := newRepo(t)
	r.write("dir/file", "content", "dir/deep/other", "other", "exec.sh", "#!")
	link := func(name, to string) {
		if err := os.Symlink(to, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("to-file", "dir/file")
	link("dir/up", "../dir/deep")
	link("to-dir", "dir")
	link("out", "../../etc/passwd")
	link("absolute", "/etc/passwd")
	link("self", "self")
	link("a-b", "b-a")
	link("b-a", "a-b")
	link("nowhere", "dir/nothing")
	link("dir/sneaky", "../dir/../../etc")
	if err := os.Chmod(filepath.Join(r.dir, "exec.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", sub.dir, "modules/m")
	r.commit("links")
	snap, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: r.dir})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"to-file": "content", "to-dir/file": "content", "dir/up/other": "other", "to-dir/up/other": "other"} {
		if got := read(t, snap.FS, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for name, want := range map[string]error{
		"out": ErrRefused, "absolute": ErrRefused, "self": ErrRefused, "a-b": ErrRefused, "dir/sneaky": ErrRefused, "out/x": ErrRefused,
		"modules/m/x": ErrRefused, "modules/m": ErrRefused,
		"nowhere": fs.ErrNotExist, "to-file/x": fs.ErrNotExist, "none": fs.ErrNotExist, "../x": fs.ErrInvalid, "/etc/passwd": fs.ErrInvalid,
	} {
		if data, err := fs.ReadFile(snap.FS, name); !errors.Is(err, want) {
			t.Errorf("%s: %q %v, want %v", name, data, err, want)
		} else if errors.Is(want, ErrRefused) && name != "self" && !strings.Contains(err.Error(), strings.SplitN(name, "/x", 2)[0]) {
			t.Errorf("%s: the error does not name it: %v", name, err)
		}
	}
	info, err := fs.Stat(snap.FS, "exec.sh")
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("exec.sh: %v %v", info, err)
	}
	if to, err := fs.ReadLink(snap.FS, "to-file"); err != nil || to != "dir/file" {
		t.Errorf("ReadLink: %q %v", to, err)
	}
	entries, err := fs.ReadDir(snap.FS, "to-dir")
	if err != nil || len(entries) != 4 {
		t.Errorf("ReadDir through a link: %v %v", entries, err)
	}
}

func TestLimits(t *testing.T) {
	r := newRepo(t)
	r.write("big", strings.Repeat("x", 100_000)).commit("big")
	bomb := r.git("rev-parse", "HEAD")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	for _, url := range []string{r.dir, srv.URL + "/repo"} {
		_, err := openStore(t, Limits{Object: 50_000}).Snapshot(t.Context(), Spec{URL: url, Ref: Ref{Commit: bomb}})
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", url, err)
		}
		t.Log(err)
	}
	for i := range 50 {
		r.write(fmt.Sprintf("f%d", i), fmt.Sprint(i))
	}
	r.git("rm", "-q", "big")
	r.commit("many")
	for _, url := range []string{r.dir, srv.URL + "/repo"} {
		if _, err := openStore(t, Limits{Objects: 20}).Snapshot(t.Context(), Spec{URL: url}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// A pack may declare a small object and inflate to a large one, or the other way round.
func TestPackThatLies(t *testing.T) {
	deflate := func(data string) string {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, _ = io.WriteString(w, data)
		w.Close()
		return b.String()
	}
	header := "PACK\x00\x00\x00\x02\x00\x00\x00\x01"
	for name, body := range map[string]string{
		"declares one byte and holds a million": "\x31" + deflate(strings.Repeat("x", 1_000_000)),
		"declares a terabyte":                   "\xb0\xff\xff\xff\xff\xff\x7f" + deflate("x"),
		"declares less than nothing":            "\xbf\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + deflate("x"),
		"delta makes a terabyte":                "\x6c\x01" + deflate("\x01\x80\x80\x80\x80\x80\x40xxxxxx"),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := openMirror(t.TempDir(), "test", Limits{Object: 100_000}.withDefaults())
			if err != nil {
				t.Fatal(err)
			}
			defer m.close()
			_, err = m.install(strings.NewReader(header+body+strings.Repeat("\x00", 20)), m.limits)
			if err == nil {
				t.Fatal("taken")
			}
			t.Log(err)
			packs, _ := m.packs()
			left, _ := filepath.Glob(filepath.Join(m.dir, "objects/pack/*"))
			hidden, _ := filepath.Glob(filepath.Join(m.dir, "objects/pack/.*"))
			if len(packs)+len(left)+len(hidden) != 0 {
				t.Errorf("left behind: %v %v %v", packs, left, hidden)
			}
		})
	}
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/redact"
)

// repoIn is a repository of that name below a folder.
func repoIn(t *testing.T, root, name string) *repo {
	t.Helper()
	r := &repo{t, filepath.Join(root, name)}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main")
	return r
}

// link pins a submodule: as git submodule add does, without a clone.
func (r *repo) link(path, url, commit string) *repo {
	r.t.Helper()
	r.git("config", "-f", ".gitmodules", "submodule."+path+".path", path)
	r.git("config", "-f", ".gitmodules", "submodule."+path+".url", url)
	r.git("add", ".gitmodules")
	r.git("update-index", "--add", "--cacheinfo", "160000,"+commit+","+path)
	return r
}

// committed commits the index as it is: gitlinks are not there in the working copy.
func (r *repo) committed(message string) string {
	r.t.Helper()
	r.git("commit", "-q", "-m", message)
	return r.git("rev-parse", "HEAD")
}

func TestSubmodules(t *testing.T) {
	root := t.TempDir()
	inner, lib, super := repoIn(t, root, "inner"), repoIn(t, root, "lib"), repoIn(t, root, "super")
	innerAt := inner.write("deep.yaml", "deep").commit("inner")
	lib.write("app/x.yaml", "one", "up", "")
	if err := os.Remove(filepath.Join(lib.dir, "up")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../base.yaml", filepath.Join(lib.dir, "up")); err != nil {
		t.Fatal(err)
	}
	lib.git("add", "-A")
	libAt := lib.link("nested/inner", "../inner", innerAt).committed("lib")
	lib.write("app/x.yaml", "two").git("add", "app")
	libNext := lib.committed("lib moves on")
	super.write("base.yaml", "base").git("add", "-A")
	first := super.link("vendor/lib", "../lib", libAt).committed("super")

	srv := gitHTTP(t, root, nil)
	defer srv.Close()
	for _, base := range []string{root, srv.URL} {
		s := openStore(t, Limits{})
		spec := Spec{URL: base + "/super", Submodules: true}
		snap := snapshotOf(t, s, spec)
		for name, want := range map[string]string{"base.yaml": "base", "vendor/lib/app/x.yaml": "one", "vendor/lib/nested/inner/deep.yaml": "deep", "vendor/lib/up": "base"} {
			if got := read(t, snap.FS, name); got != want {
				t.Errorf("%s: %s is %q, want %q", base, name, got, want)
			}
		}
		if err := fstest.TestFS(without(snap.FS, "vendor/lib/up"), "base.yaml", "vendor/lib/app/x.yaml", "vendor/lib/nested/inner/deep.yaml"); err != nil {
			t.Error(err)
		}
		at, err := s.At(spec, first)
		if err != nil || read(t, at.FS, "vendor/lib/nested/inner/deep.yaml") != "deep" {
			t.Errorf("from the mirrors: %v", err)
		}
		plain := snapshotOf(t, s, Spec{URL: base + "/super"})
		if _, err := fs.ReadFile(plain.FS, "vendor/lib/app/x.yaml"); err == nil || !strings.Contains(err.Error(), "spec.source.submodules: true") {
			t.Errorf("not asked for: %v", err)
		}

		super.link("vendor/lib", "../lib", libNext).committed("lib is moved")
		moved := snapshotOf(t, s, spec)
		if got := read(t, moved.FS, "vendor/lib/app/x.yaml"); got != "two" {
			t.Errorf("after the gitlink moved: %q", got)
		}
		paths, certain := Changed(snap, moved)
		if !certain || !slices.Equal(paths, []string{"vendor/lib/app/x.yaml"}) {
			t.Errorf("changed: %q %v", paths, certain)
		}
		if !moved.Direct("vendor/lib/app/x.yaml") || moved.Direct("vendor/lib/up") {
			t.Error("what is reached by links is not told from what is not")
		}
		if _, certain := Changed(plain, moved); certain {
			t.Error("a tree with and one without submodules are compared")
		}
		super.write("new/y", "").git("add", "new")
		super.link("vendor/inner", "../inner", innerAt).committed("one more")
		if _, certain := Changed(moved, snapshotOf(t, s, spec)); certain {
			t.Error("a submodule that came is not noticed")
		}
		super.git("reset", "-q", "--hard", first)
	}
}

// without leaves one name out of a file system: TestFS opens links, which may lead anywhere within the whole.
func without(files fs.FS, name string) fs.FS { return hidden{files, name} }

type hidden struct {
	fs.FS
	name string
}

func (h hidden) Open(name string) (fs.File, error) {
	if name == h.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := h.FS.Open(name)
	if d, ok := f.(*folder); ok && err == nil {
		d.list = slices.DeleteFunc(slices.Clone(d.list), func(e fs.DirEntry) bool { return join(name, e.Name()) == h.name })
	}
	return f, err
}

// Credentials follow a submodule to the same origin and nowhere else; lines that name a host follow to that host.
func TestSubmoduleCredentials(t *testing.T) {
	root := t.TempDir()
	const password = "hunter2-of-submodules"
	defer redact.Register(password)()
	lib, super := repoIn(t, root, "lib"), repoIn(t, root, "super")
	libAt := lib.write("x", "x").commit("lib")
	var mu sync.Mutex
	var elsewhere []string // what the other host was shown
	strangers := gitHTTP(t, root, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			elsewhere = append(elsewhere, r.Header.Get("Authorization"))
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	})
	defer strangers.Close()
	home := gitHTTP(t, root, basic("bob", password))
	defer home.Close()
	creds := &Credentials{Username: "bob", Password: password}

	super.link("same", "../lib", libAt).committed("same origin")
	snap := snapshotOf(t, openStore(t, Limits{}), Spec{URL: home.URL + "/super", Credentials: creds, Submodules: true})
	if read(t, snap.FS, "same/x") != "x" {
		t.Error("same origin")
	}
	super.link("other", strangers.URL+"/lib", libAt).committed("another origin")
	snap = snapshotOf(t, openStore(t, Limits{}), Spec{URL: home.URL + "/super", Credentials: creds, Submodules: true})
	if read(t, snap.FS, "other/x") != "x" {
		t.Error("another origin")
	}
	if len(elsewhere) == 0 || slices.ContainsFunc(elsewhere, func(s string) bool { return s != "" }) {
		t.Errorf("the other host was shown %q", elsewhere)
	}

	private := gitHTTP(t, root, basic("ann", "other-"+password))
	defer private.Close()
	super.link("private", private.URL+"/lib", libAt).committed("a third one")
	_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: home.URL + "/super", Credentials: creds, Submodules: true})
	if !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), `submodule "private"`) || strings.Contains(err.Error(), password) {
		t.Errorf("without a right: %v", err)
	}
	lines, err := ParseCredentials([]byte(fmt.Sprintf("%s\n%s\n", strings.Replace(home.URL, "://", "://bob:"+password+"@", 1),
		strings.Replace(private.URL, "://", "://ann:other-"+password+"@", 1))))
	if err != nil {
		t.Fatal(err)
	}
	snap = snapshotOf(t, openStore(t, Limits{}), Spec{URL: home.URL + "/super", Credentials: lines, Submodules: true})
	if read(t, snap.FS, "private/x") != "x" {
		t.Error("by lines")
	}
}

func TestHostileSubmodules(t *testing.T) {
	root := t.TempDir()
	lib := repoIn(t, root, "lib")
	libAt := lib.write("x", "x").commit("lib")
	canary := filepath.Join(root, "canary")
	outside := repoIn(t, t.TempDir(), "private")
	outsideAt := outside.write("secret", "of this machine").commit("x")
	srv := gitHTTP(t, root, nil)
	defer srv.Close()
	modules := func(path, url string) string {
		return fmt.Sprintf("[submodule \"../../../x\"]\n\tpath = %s\n\turl = %s\n\tupdate = !touch %s\n", path, url, canary)
	}
	for i, c := range []struct{ name, modules, says string }{
		{"option", modules("m", "--upload-pack=touch "+canary), "reads as an option"},
		{"transport helper", modules("m", "ext::sh -c touch% "+canary), "transport helper"},
		{"a folder of this machine", modules("m", "file://"+outside.dir), "names a folder of this machine"},
		{"a path of this machine", modules("m", outside.dir), "names a folder of this machine"},
		{"no Git at all", modules("m", "oci://127.0.0.1:1/x"), "is no Git repository"},
		{"git protocol", modules("m", "git://127.0.0.1/x"), "git:// proves neither"},
		{"out of the host", modules("m", "../../../../etc"), "leads out of"},
		{"absolute path", modules("/etc", "../lib"), "names the path"},
		{".git", modules("m/.GIT/hooks", "../lib"), "names the path"},
		{"no url", "[submodule \"m\"]\n\tpath = m\n", "has no url"},
		{"twice", modules("m", "../lib") + "[submodule \"n\"]\n\tpath = m\n\turl = ../lib\n", "twice"},
		{"no syntax", "[submodule \"m\n", "cannot be parsed"},
		{"too long", "#" + strings.Repeat("x", longestModules), "longer than"},
		{"a name is no path", modules("m", "../lib"), ""},
		{"parent folder", modules("../m", "../lib"), ""}, // not there for Git's library
	} {
		t.Run(c.name, func(t *testing.T) {
			super := repoIn(t, root, fmt.Sprintf("super%d", i))
			super.write(".gitmodules", c.modules).git("add", "-A")
			at := libAt
			if strings.Contains(c.modules, outside.dir) {
				at = outsideAt
			}
			super.git("update-index", "--add", "--cacheinfo", "160000,"+at+",m")
			super.committed("hostile")
			snap, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: srv.URL + "/" + filepath.Base(super.dir), Submodules: true})
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v %v; wants %q", snap.Commit, err, c.says)
			}
			if _, err := os.Stat(canary); err == nil {
				t.Fatal("a command of .gitmodules was run")
			}
		})
	}

	t.Run("of an artifact", func(t *testing.T) {
		if _, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: "oci://127.0.0.1:1/x", Submodules: true}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "submodules") {
			t.Errorf("%v", err)
		}
	})
	t.Run(".gitmodules is a link", func(t *testing.T) {
		super := repoIn(t, root, "superlink")
		super.write("other", modules("m", "../lib")).commit("x") // git itself would not make the link
		blob := super.git("rev-parse", "HEAD:other")
		cmd := exec.Command("git", "mktree")
		cmd.Dir, cmd.Stdin = super.dir, strings.NewReader("120000 blob "+blob+"\t.gitmodules\n")
		made, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		super.git("update-ref", "refs/heads/main", super.git("commit-tree", "-m", "x", strings.TrimSpace(string(made))))
		if _, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: super.dir, Submodules: true}); err == nil || !strings.Contains(err.Error(), "no plain file") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a repository that holds itself", func(t *testing.T) {
		super := repoIn(t, root, "self")
		at := super.write("x", "x").commit("first")
		for range deepestSubmodule + 1 {
			at = super.link("self", "../self", at).committed("again")
		}
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: srv.URL + "/self", Submodules: true})
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "nested deeper") {
			t.Errorf("%v", err)
		}
	})
	t.Run("too many", func(t *testing.T) {
		super := repoIn(t, root, "many")
		for i := range mostSubmodules + 1 {
			super.link(fmt.Sprintf("m%03d", i), "../lib", libAt)
		}
		super.committed("many")
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: srv.URL + "/many", Submodules: true})
		if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "more than 64 submodules") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a server that answers for ever", func(t *testing.T) {
		slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		defer slow.Close()
		super := repoIn(t, root, "slow")
		super.link("m", slow.URL+"/lib", libAt).committed("x")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := openStore(t, Limits{Stall: 300e6}).Snapshot(ctx, Spec{URL: super.dir, Submodules: true})
		if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), `submodule "m"`) {
			t.Errorf("%v", err)
		}
	})
}

func TestRelativeAddresses(t *testing.T) {
	for _, c := range []struct{ super, to, want string }{
		{"https://host/org/repo.git", "../lib.git", "https://host/org/lib.git"},
		{"https://host/org/repo", "../../other/lib", "https://host/other/lib"},
		{"https://host/org/repo", "./sub", "https://host/org/repo/sub"},
		{"git@host:org/repo.git", "../lib.git", "git@host:org/lib.git"},
		{"git@host:repo", "../lib", "git@host:lib"},
		{"ssh://me@host:2222/org/repo", "../lib", "ssh://me@host:2222/org/lib"},
		{"/srv/git/repo", "../lib", "file:///srv/git/lib"},
		{"https://host/repo", "../../lib", ""},
		{"git@host:repo", "../", ""},
	} {
		super, err := parseAddress(c.super, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := super.relative(c.to)
		if c.want == "" && !errors.Is(err, ErrRefused) || c.want != "" && (err != nil || got.String() != c.want) {
			t.Errorf("%s + %s = %s %v, want %s", c.super, c.to, got, err, c.want)
		}
	}
}

// A .gitmodules is read or refused; what is read names no path that leads out of the tree.
func FuzzModules(f *testing.F) {
	f.Add([]byte("[submodule \"a\"]\n\tpath = a\n\turl = ../a\n"))
	f.Add([]byte("[submodule \"../x\"]\n\tpath = ./a/../..\n\turl = -x\n\tupdate = !sh\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		modules, err := parseModules(data)
		if err != nil {
			return
		}
		super := address{scheme: "https", host: "host", path: "/org/repo"}
		for _, m := range modules {
			if !fs.ValidPath(m.path) {
				t.Fatalf("path %q", m.path)
			}
			if a, err := m.address(super); err == nil && a.scheme == "file" {
				t.Fatalf("%q is %s", m.url, a)
			}
		}
	})
}

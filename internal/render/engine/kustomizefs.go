package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/gitopsd/gitopsd/internal/render"
)

// kustomizeFS shows an fs.FS to Kustomize as an absolute file tree with the repository's root as /. It behaves
// as filesys.fsOnDisk does, which the oracle runs on, except that nothing can be written.
type kustomizeFS struct {
	fsys    fs.FS
	read    map[string][]byte  // kustomization files that were read, by path below the root
	options render.HelmOptions // for helmCharts: versions, and what lookup gives
	lookup  Lookup
	charts  bool              // one was rendered
	made    map[string][]byte // what helmCharts were rendered to, by path below the root
	// namespaces is what the charts of a folder's kustomization inherit from the one that uses it.
	namespaces map[string]string
	failed     error // of helmCharts; Kustomize only says that it cannot read the file
}

func newKustomizeFS(fsys fs.FS) *kustomizeFS {
	return &kustomizeFS{fsys: fsys, read: map[string][]byte{}, made: map[string][]byte{}, namespaces: map[string]string{}}
}

var _ filesys.FileSystem = (*kustomizeFS)(nil)

var errReadOnly = errors.New("a render writes no files")

func (k *kustomizeFS) Create(string) (filesys.File, error) { return nil, errReadOnly }
func (k *kustomizeFS) Mkdir(string) error                  { return errReadOnly }
func (k *kustomizeFS) MkdirAll(string) error               { return errReadOnly }
func (k *kustomizeFS) RemoveAll(string) error              { return errReadOnly }
func (k *kustomizeFS) WriteFile(string, []byte) error      { return errReadOnly }
func (k *kustomizeFS) Open(name string) (filesys.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("files are read whole")}
}

// below turns Kustomize's path into one of the fs.FS.
func below(name string) (string, error) {
	p := strings.TrimPrefix(path.Clean("/"+name), "/")
	if p == "" {
		p = "."
	}
	if !fs.ValidPath(p) {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return p, nil
}

func (k *kustomizeFS) IsDir(name string) bool {
	p, err := below(name)
	if err != nil {
		return false
	}
	info, err := fs.Stat(k.fsys, p)
	return err == nil && info.IsDir()
}

func (k *kustomizeFS) Exists(name string) bool {
	p, err := below(name)
	if err != nil {
		return false
	}
	if k.made[p] != nil {
		return true
	}
	_, err = fs.Stat(k.fsys, p)
	return err == nil
}

func (k *kustomizeFS) ReadFile(name string) ([]byte, error) {
	p, err := below(name)
	if err != nil {
		return nil, err
	}
	if made := k.made[p]; made != nil {
		return made, nil
	}
	data, err := fs.ReadFile(k.fsys, p)
	if err != nil || !slices.Contains(kustomizationNames, path.Base(p)) {
		return data, err
	}
	k.read[p] = data
	if err := k.staysBelow(p, data); err != nil {
		if k.failed == nil {
			k.failed = err
		}
		return nil, err
	}
	out, err := k.inflate(p, data)
	if err != nil && k.failed == nil {
		k.failed = err
	}
	return out, err
}

func (k *kustomizeFS) ReadDir(name string) ([]string, error) {
	p, err := below(name)
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(k.fsys, p)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

// CleanedAbs follows links: what a path is confirmed to be is where it really lies.
func (k *kustomizeFS) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	if p, err := below(name); err == nil && k.made[p] != nil {
		return filesys.ConfirmedDir("/" + strings.TrimPrefix(path.Dir(p), ".")), path.Base(p), nil
	}
	real, err := k.follow(path.Clean("/"+name), 0)
	if err != nil {
		return "", "", fmt.Errorf("evalsymlink failure on '%s' : %w", name, err)
	}
	if k.IsDir(real) {
		return filesys.ConfirmedDir(real), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(real)), path.Base(real), nil
}

func (k *kustomizeFS) follow(abs string, links int) (string, error) {
	at := "/"
	parts := strings.FieldsFunc(abs, func(r rune) bool { return r == '/' })
	for i, part := range parts {
		at = path.Join(at, part)
		p, err := below(at)
		if err != nil {
			return "", err
		}
		info, err := fs.Lstat(k.fsys, p)
		if err != nil {
			return "", pathAt(err, at)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if i < len(parts)-1 && !info.IsDir() {
				return "", &fs.PathError{Op: "lstat", Path: at, Err: fs.ErrNotExist}
			}
			continue
		}
		target, err := fs.ReadLink(k.fsys, p)
		if err != nil {
			return "", pathAt(err, at)
		}
		if links++; links > 40 {
			return "", &fs.PathError{Op: "lstat", Path: at, Err: errors.New("too many links")}
		}
		to := path.Join("/", path.Dir(p), target)
		if strings.HasPrefix(target, "/") || strings.HasPrefix(path.Join(path.Dir(p), target), "..") {
			if _, err := fs.Stat(k.fsys, p); err != nil { // the fs.FS knows what to say about it
				return "", pathAt(err, at)
			}
			return "", &fs.PathError{Op: "readlink", Path: at, Err: errors.New("leads out of the repository")}
		}
		return k.follow(path.Join(append([]string{to}, parts[i+1:]...)...), links)
	}
	return at, nil
}

// pathAt gives an error the path that Kustomize knows.
func pathAt(err error, at string) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: at, Err: pe.Err}
	}
	return err
}

func (k *kustomizeFS) Glob(pattern string) ([]string, error) {
	p := strings.TrimPrefix(path.Clean("/"+pattern), "/")
	names, err := fs.Glob(k.fsys, p)
	if err != nil {
		return nil, err
	}
	for i, n := range names {
		if strings.HasPrefix(pattern, "/") {
			names[i] = "/" + n
		}
	}
	sort.Strings(names)
	if !filesys.IsHiddenFilePath(pattern) {
		names = filesys.RemoveHiddenFiles(names)
	}
	return names, nil
}

func (k *kustomizeFS) Walk(name string, visit filepath.WalkFunc) error {
	p, err := below(name)
	if err != nil {
		return err
	}
	return fs.WalkDir(k.fsys, p, func(at string, d fs.DirEntry, err error) error {
		var info os.FileInfo
		if d != nil && err == nil {
			info, err = d.Info()
		}
		return visit(path.Join("/", at), info, err)
	})
}

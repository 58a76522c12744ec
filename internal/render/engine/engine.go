// Package engine renders in the process it is called in: it links Helm and Kustomize, reads from an fs.FS and
// returns raw objects. Only the worker program and tests import it; everybody else goes through the worker pool
// of package render, because what is rendered here is written by strangers and both libraries keep global state.
//
// It runs no program, opens no connection and writes no file, with a sandbox around it or without.
package engine

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/gitopsd/gitopsd/internal/render"
)

// maxFiles bounds how many files one render may look at, in folders that lie in each other through links too.
const maxFiles = 20_000

// Output is what a path stands for. The objects come in the tools' own order.
type Output struct {
	Kind    render.Kind
	Objects []render.Raw
	Release *render.Release // of a chart
	Charts  bool            // a chart was rendered, be it for a kustomization
	// Tainted: the libraries' global state is not what it was; the process should render for nobody else.
	Tainted bool
}

// Render finds out what the path holds and renders it. The output is never nil, and Tainted holds with an error too.
// Lookup answers what charts ask about the cluster; nil: there is none.
func Render(fsys fs.FS, where string, o render.Options, lookup Lookup) (*Output, error) {
	if o.Decrypt == nil {
		out, err := renderPlain(fsys, where, o, lookup)
		if err == nil {
			err = refuseEncrypted(out.Objects, nil)
		}
		return out, err
	}
	d, err := decrypt(fsys, o.Decrypt)
	if err != nil {
		return &Output{}, err
	}
	out, err := renderPlain(d, where, o, lookup)
	if err == nil {
		err = refuseEncrypted(out.Objects, d)
	}
	if err != nil {
		err = d.clean(err)
	}
	return out, err
}

// renderPlain is Render over files that need no decryption.
func renderPlain(fsys fs.FS, where string, o render.Options, lookup Lookup) (*Output, error) {
	out := &Output{Kind: o.Kind}
	where, err := cleanPath(where)
	if err != nil {
		return out, err
	}
	if out.Kind == "" {
		if out.Kind, err = detect(fsys, where); err != nil {
			return out, err
		}
	}
	switch out.Kind {
	case render.Plain:
		err = out.plain(fsys, where, o, lookup)
	case render.Kustomize:
		err = out.kustomize(fsys, where, o, lookup)
	case render.Helm:
		out.Charts = true
		out.Objects, out.Release, err = helm(fsys, where, o, lookup)
	default:
		err = &render.Error{Class: render.ErrInvalid, Text: "render kind " + string(out.Kind) + " is not known", Next: "use Plain, Kustomize or Helm, or leave it out"}
	}
	return out, err
}

// cleanPath takes a path as people write it and refuses one that leads out of the repository.
func cleanPath(p string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(p, "./"))
	if p == "" {
		clean = "."
	}
	if !fs.ValidPath(clean) || strings.ContainsRune(clean, 0) {
		return "", &render.Error{Class: render.ErrRefused, File: p, Text: "the path does not lie within the repository", Next: "write it relative to the repository's root, without .."}
	}
	return clean, nil
}

// kustomizationNames are the names kustomize knows, in its order (konfig.RecognizedKustomizationFileNames).
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

func detect(fsys fs.FS, where string) (render.Kind, error) {
	info, err := fs.Stat(fsys, where)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &render.Error{Class: render.ErrInvalid, File: where, Text: "there is no such folder or file in the repository", Next: "correct the Application's path, or add it"}
	}
	if err != nil {
		return "", filesError(where, err)
	}
	if !info.IsDir() {
		return render.Plain, nil
	}
	if kustomizationIn(fsys, where) != "" {
		return render.Kustomize, nil
	}
	if isFile(fsys, path.Join(where, "Chart.yaml")) {
		return render.Helm, nil
	}
	return render.Plain, nil
}

// kustomizationIn returns the name of the folder's kustomization file, or "".
func kustomizationIn(fsys fs.FS, dir string) string {
	for _, name := range kustomizationNames {
		if isFile(fsys, path.Join(dir, name)) {
			return name
		}
	}
	return ""
}

func isFile(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	return err == nil && !info.IsDir()
}

// filesError is for errors that are the repository's and not the render's.
func filesError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &render.Error{Class: render.ErrFiles, File: name, Text: "the file cannot be read", Err: err}
}

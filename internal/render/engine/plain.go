package engine

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/render"
)

// plain reads every .yaml, .yml and .json file of a folder and the folders below it, as Flux does. Names that
// begin with a dot are left out. A folder below that holds a kustomization is rendered as one; one that holds a
// chart is an error, because its values are nobody's.
func (out *Output) plain(fsys fs.FS, where string, o render.Options, lookup Lookup) error {
	info, err := fs.Stat(fsys, where)
	if err != nil {
		return filesError(where, err)
	}
	w := &walk{fsys: fsys, out: out, options: o, lookup: lookup}
	if !info.IsDir() {
		return w.manifests(where)
	}
	err = w.folder(where, 0)
	if errors.Is(err, errTooManyFiles) {
		err = &render.Error{Class: render.ErrLimit, File: where, Text: "the path holds more than " + strconv.Itoa(maxFiles) + " files", Next: "split it into several Applications"}
	}
	return err
}

type walk struct {
	fsys    fs.FS
	files   int
	out     *Output
	options render.Options
	lookup  Lookup
}

func (w *walk) folder(dir string, depth int) error {
	if depth > 0 {
		done, err := w.foreign(dir)
		if done || err != nil {
			return err
		}
	}
	entries, err := fs.ReadDir(w.fsys, dir)
	if err != nil {
		return filesError(dir, err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if w.files++; w.files > maxFiles || depth > 100 {
			return errTooManyFiles
		}
		isDir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			info, err := fs.Stat(w.fsys, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return filesError(name, err)
			}
			isDir = info.IsDir()
		}
		if isDir {
			err = w.folder(name, depth+1)
		} else {
			err = w.file(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// foreign deals with a folder below that is not plain.
func (w *walk) foreign(dir string) (done bool, err error) {
	if kustomizationIn(w.fsys, dir) != "" {
		return true, w.out.kustomize(w.fsys, dir, w.options, w.lookup)
	}
	if isFile(w.fsys, path.Join(dir, "Chart.yaml")) {
		return true, &render.Error{Class: render.ErrInvalid, File: path.Join(dir, "Chart.yaml"), Text: "a Helm chart lies in a folder of plain manifests",
			Next: "give it an Application of its own, or move it out of the path"}
	}
	return false, nil
}

func (w *walk) file(name string) error {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
	default:
		return nil
	}
	return w.manifests(name)
}

func (w *walk) manifests(name string) error {
	data, err := fs.ReadFile(w.fsys, name)
	if err != nil {
		return filesError(name, err)
	}
	for _, d := range splitDocuments(data) {
		objects, err := d.raws(name, true)
		if err != nil {
			return err
		}
		w.out.Objects = append(w.out.Objects, objects...)
	}
	return nil
}

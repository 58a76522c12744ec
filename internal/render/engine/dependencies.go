package engine

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/gitopsd/gitopsd/internal/render"
)

// complete adds the dependencies that Chart.yaml names and charts/ lacks, as helm dependency build would have put them there:
// at the versions of Chart.lock, from folders of the repository or as archives that whoever started the render fetched.
func (c *chartRun) complete(ch *chart.Chart, files []*loader.BufferedFile) (*chart.Chart, error) {
	missing := missingDependencies(ch)
	if len(missing) == 0 {
		return ch, nil
	}
	if err := c.checkLock(ch); err != nil {
		return nil, err
	}
	var absent []string
	for _, i := range missing {
		more, err := c.dependency(ch, i, files)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			absent = append(absent, ch.Metadata.Dependencies[i].Name)
		case err != nil:
			return nil, err
		}
		files = append(files, more...)
	}
	if len(absent) > 0 {
		return nil, c.lacks(absent)
	}
	whole, err := loader.LoadFiles(files)
	if err != nil {
		return nil, c.loadError(err)
	}
	return whole, nil
}

func (c *chartRun) lacks(names []string) error {
	return c.invalid("", "dependencies "+strings.Join(names, ", ")+" are not in charts/", "run helm dependency build and commit charts/")
}

// missingDependencies are the places in Chart.yaml of what is not in charts/, as action.CheckDependencies sees it.
func missingDependencies(ch *chart.Chart) []int {
	var missing []int
	for i, want := range ch.Metadata.Dependencies {
		if want != nil && !slices.ContainsFunc(ch.Dependencies(), func(d *chart.Chart) bool { return d.Name() == want.Name }) {
			missing = append(missing, i)
		}
	}
	return missing
}

// checkLock refuses a lock that was made of other dependencies, as helm dependency build does (downloader.Manager.Build).
func (c *chartRun) checkLock(ch *chart.Chart) error {
	if ch.Lock == nil {
		return nil
	}
	file := "Chart.lock"
	sums := []any{[2][]*chart.Dependency{ch.Metadata.Dependencies, ch.Lock.Dependencies}} // resolver.HashReq
	if ch.Metadata.APIVersion == chart.APIVersionV1 {
		file = "requirements.lock"
		sums = append(sums, map[string][]*chart.Dependency{"dependencies": ch.Metadata.Dependencies}) // resolver.HashV2Req
	}
	for _, s := range sums {
		if text, err := json.Marshal(s); err == nil && fmt.Sprintf("sha256:%x", sha256.Sum256(text)) == ch.Lock.Digest {
			return nil
		}
	}
	return c.invalid(path.Join(c.dir, file), "the lock does not belong to the dependencies of Chart.yaml", "run helm dependency update and commit "+file)
}

// dependency is the files of one dependency, named as below charts/. fs.ErrNotExist: nobody has it.
func (c *chartRun) dependency(ch *chart.Chart, i int, files []*loader.BufferedFile) ([]*loader.BufferedFile, error) {
	d := ch.Metadata.Dependencies[i]
	version := d.Version
	if l := lockedAt(ch.Lock, d, i); l != nil {
		version = l.Version
	}
	if strings.ContainsAny(d.Name, "/\\") || d.Name == "." || d.Name == ".." || d.Name == "" {
		return nil, &render.Error{Class: render.ErrRefused, File: path.Join(c.dir, "Chart.yaml"), Text: "dependency name " + strconv.Quote(d.Name) + " is a path", Next: "write the chart's name"}
	}
	switch {
	case d.Repository == "":
		return nil, fs.ErrNotExist
	case strings.HasPrefix(d.Repository, "file://"):
		return c.neighbour(d, version)
	case strings.HasPrefix(d.Repository, "@"), strings.HasPrefix(d.Repository, "alias:"):
		return nil, &render.Error{Class: render.ErrRefused, File: path.Join(c.dir, "Chart.yaml"),
			Text: "dependency " + d.Name + " names the repository " + strconv.Quote(d.Repository) + ", a name that helm repo add gave on some machine", Next: "write the repository's URL"}
	}
	need := render.ChartNeed{Repository: d.Repository, Name: d.Name, Version: version, By: path.Join(c.dir, "Chart.yaml"), For: sumOf(files)}
	data, err := c.need(need)
	if err != nil {
		return nil, err
	}
	return []*loader.BufferedFile{{Name: "charts/" + d.Name + "-" + strconv.Itoa(i) + ".tgz", Data: data}}, nil
}

// need reads an archive that was fetched.
func (c *chartRun) need(n render.ChartNeed) ([]byte, error) {
	data, err := fs.ReadFile(c.fsys, n.Path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, filesError(n.Name, err)
	}
	return data, err
}

// sumOf is what a chart says of its dependencies.
func sumOf(files []*loader.BufferedFile) string {
	h := sha256.New()
	for _, f := range files {
		if slices.Contains([]string{"Chart.yaml", "Chart.lock", "requirements.yaml", "requirements.lock"}, f.Name) {
			fmt.Fprintf(h, "%s %d\n%s", f.Name, len(f.Data), f.Data)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// lockedAt is the lock's entry for a dependency: at its own place, or the first of its name.
func lockedAt(lock *chart.Lock, d *chart.Dependency, i int) *chart.Dependency {
	if lock == nil {
		return nil
	}
	if i < len(lock.Dependencies) && lock.Dependencies[i] != nil && lock.Dependencies[i].Name == d.Name {
		return lock.Dependencies[i]
	}
	for _, l := range lock.Dependencies {
		if l != nil && l.Name == d.Name {
			return l
		}
	}
	return nil
}

// neighbour is a chart in a folder of the repository.
func (c *chartRun) neighbour(d *chart.Dependency, version string) ([]*loader.BufferedFile, error) {
	to := strings.TrimPrefix(d.Repository, "file://")
	dir := path.Join(c.dir, to)
	if strings.HasPrefix(to, "/") || !fs.ValidPath(dir) {
		return nil, &render.Error{Class: render.ErrRefused, File: path.Join(c.dir, "Chart.yaml"), Text: "dependency " + d.Name + " is in " + strconv.Quote(d.Repository) + ", outside the repository",
			Next: "write its folder relative to the chart's, within the repository"}
	}
	own := &chartRun{fsys: c.fsys, dir: dir, o: c.o}
	files, err := own.walk()
	if err != nil {
		return nil, err
	}
	ch, err := loader.LoadFiles(files)
	if err != nil {
		return nil, own.loadError(err)
	}
	range_, err := semver.NewConstraint(version)
	if err != nil {
		return nil, c.invalid("", "dependency "+d.Name+" has the version "+strconv.Quote(version)+", which is no range", "correct it")
	}
	v, err := semver.NewVersion(ch.Metadata.Version)
	if err != nil || !range_.Check(v) || ch.Name() != d.Name {
		return nil, c.invalid("", fmt.Sprintf("dependency %s %s is in %s, which holds %s %s", d.Name, version, d.Repository, ch.Name(), ch.Metadata.Version), "correct the version, and run helm dependency update if there is a lock")
	}
	for _, f := range files {
		f.Name = "charts/" + d.Name + "/" + f.Name
	}
	return files, nil
}

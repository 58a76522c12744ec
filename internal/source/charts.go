package source

import (
	"context"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// ChartRequest names a chart as the dependencies of a chart and the helmCharts of a kustomization do.
type ChartRequest struct {
	Repository string // https://…, or oci://… of the folder that holds the chart
	Name       string
	Version    string // exact, or a range; "": the highest that is no pre-release
}

// Chart is an archive as it was fetched.
type Chart struct {
	Version string
	Digest  string // of the archive, or of its manifest
	Archive []byte // the .tgz
}

const chartFile = "chart.tgz" // the name under which a shelf of charts keeps it

// Chart fetches a chart for somebody who reads spec: its credentials are used where they are for, at the origin of spec.URL (an
// oci:// address has the origin of https://), and elsewhere nobody's.
func (s *Store) Chart(ctx context.Context, spec Spec, want ChartRequest) (Chart, error) {
	a, creds, err := s.chartAddress(spec, want)
	if err != nil {
		return Chart{}, err
	}
	got, err := s.chart(ctx, a, creds, want)
	return got, classify(ctx, "chart "+want.Name+" of "+a.String(), err)
}

func (s *Store) chartAddress(spec Spec, want ChartRequest) (address, Credentials, error) {
	a, err := parseAddress(want.Repository, false)
	if err != nil {
		return a, Credentials{}, err
	}
	if a.scheme != "https" && a.scheme != "http" && !a.oci() {
		return a, Credentials{}, refusedURL("chart repository "+quote(want.Repository)+" is reached by neither https nor oci", "write https://host/path or oci://host/path")
	}
	if a.user != "" || a.password != "" {
		return a, Credentials{}, refusedURL("the URL of chart repository "+a.String()+" holds credentials, which everybody sees who reads the file", "remove them, and give them in source.secretRef")
	}
	if strings.ContainsAny(want.Name, "/\\:@?#%") || want.Name == "" || strings.HasPrefix(want.Name, ".") {
		return a, Credentials{}, refusedURL("chart name "+quote(want.Name)+" is no plain name", "write the name alone")
	}
	own, err := parseAddress(spec.URL, false)
	creds := spec.Credentials
	if err != nil || own.origin() != a.origin() {
		creds = creds.publicPart()
	}
	return a, creds.forAddress(a), nil
}

// ref is how a version is looked for: exactly as written if it is a whole version, as Helm does at registries.
func (r ChartRequest) ref() Ref {
	if _, err := semver.StrictNewVersion(strings.TrimPrefix(r.Version, "v")); err == nil {
		return Ref{Tag: r.Version}
	}
	return Ref{Semver: r.Version}
}

func (s *Store) chart(ctx context.Context, a address, creds Credentials, want ChartRequest) (Chart, error) {
	forget := creds.register()
	defer forget()
	shelf, err := s.shelf(chartShelf(a, want.Name))
	if err != nil {
		return Chart{}, err
	}
	ctx, stop := roundOf(ctx, s.cfg.Limits)
	defer stop()
	if a.oci() {
		return s.ociChart(ctx, a, creds, want, shelf)
	}
	s.mu.Lock()
	index, err := s.indexLocked(a, creds)
	s.mu.Unlock()
	if err != nil {
		return Chart{}, err
	}
	defer index.http.CloseIdleConnections()
	versions, err := index.versions(ctx, want.Name)
	if err != nil {
		return Chart{}, err
	}
	ref := Ref{Semver: want.Version}
	if slices.ContainsFunc(versions, func(v chartVersion) bool { return v.Version == want.Version }) {
		ref = Ref{Tag: want.Version}
	}
	v, err := (&helmChart{index: index, chart: want.Name}).choose(ref, versions)
	if err != nil {
		return Chart{}, err
	}
	if got, err := chartOn(shelf, v.sum()); err == nil {
		return got, nil
	}
	if len(v.URLs) == 0 {
		return Chart{}, badIndex("version " + quote(v.Version) + " of the chart has no URL")
	}
	f, digest, err := index.archive(ctx, shelf, v)
	if err != nil {
		return Chart{}, err
	}
	defer f.Close()
	return putChart(shelf, digest, v.about(want.Name), f)
}

func (s *Store) ociChart(ctx context.Context, a address, creds Credentials, want ChartRequest, shelf *shelf) (Chart, error) {
	o, err := openOCI(a, want.Name, creds, shelf, s.cfg.Limits)
	if err != nil {
		return Chart{}, err
	}
	defer o.http.CloseIdleConnections()
	tag, err := o.tag(ctx, want.ref(), &tagList{o: o})
	if err != nil {
		return Chart{}, err
	}
	digest, err := o.resolve(ctx, tag)
	if err != nil {
		return Chart{}, err
	}
	if got, err := chartOn(shelf, digest); err == nil {
		return got, nil
	}
	m, err := o.manifest(ctx, digest)
	if err != nil {
		return Chart{}, err
	}
	l, err := o.chartLayer(m)
	if err != nil {
		return Chart{}, err
	}
	f, err := o.fetch(ctx, l)
	if err != nil {
		return Chart{}, err
	}
	defer f.Close()
	return putChart(shelf, digest, aboutManifest(m, o.version(tag)), f)
}

// chartShelf is where the archives of a chart are kept as they came.
func chartShelf(a address, name string) string { return shelfOf(a, name) + "\ntgz" }

// ChartAt returns a chart that was fetched before, without asking anybody.
func (s *Store) ChartAt(want ChartRequest, digest string) (Chart, error) {
	a, err := parseAddress(want.Repository, false)
	if err != nil {
		return Chart{}, err
	}
	shelf, err := s.shelf(chartShelf(a, want.Name))
	if err != nil {
		return Chart{}, err
	}
	return chartOn(shelf, digest)
}

func chartOn(s *shelf, digest string) (Chart, error) {
	a, err := s.at(digest)
	if err != nil {
		return Chart{}, err
	}
	data, err := a.ReadFile(chartFile)
	return Chart{Version: a.about.Name, Digest: digest, Archive: data}, err
}

func putChart(s *shelf, digest string, what about, f *os.File) (Chart, error) {
	info, err := f.Stat()
	if err != nil {
		return Chart{}, storageError(err)
	}
	if _, err := s.put(digest, func(p *packer) (about, error) { return what, p.file(chartFile, 0o644, info.Size(), f) }); err != nil {
		return Chart{}, err
	}
	return chartOn(s, digest)
}

// oci says that an address is a registry's.
func (a address) oci() bool { return a.scheme == "oci" || a.scheme == "oci+http" }

// origin is what credentials belong to. A registry is spoken to by https, unless its address says otherwise.
func (a address) origin() string {
	scheme := map[string]string{"oci": "https", "oci+http": "http"}[a.scheme]
	if scheme == "" {
		scheme = a.scheme
	}
	return scheme + "://" + a.host
}

// originOf is the origin of a URL, with its port where that is not the scheme's own.
func originOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}

// publicPart is what credentials hold for any host: logins that name theirs, and whom to trust.
func (c *Credentials) publicPart() *Credentials {
	if c == nil {
		return nil
	}
	return &Credentials{lines: c.lines, logins: c.logins, CABundle: c.CABundle, Proxy: c.Proxy}
}

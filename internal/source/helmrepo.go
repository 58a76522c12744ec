package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
)

// helmIndex is the index.yaml of one repository, seen with one set of credentials: one file for all charts that are read
// from it, asked for anew only when it has changed.
type helmIndex struct {
	name   string // the repository's URL
	base   *url.URL
	creds  Credentials
	http   *http.Transport
	client *http.Client
	dir    *shelf
	file   string // on disk
	limits Limits

	mu    sync.Mutex
	begun time.Time // when the last answer was asked for
	etags validators
	err   error
	known map[string][]chartVersion // by chart, of the index as it is now
}

// validators are what a server knows its answer by (RFC 9110, 8.8).
type validators struct {
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	Sum          string `json:"sum,omitempty"` // SHA-256 of the file they belong to
	// Archives are the digests of archives that were fetched and of which the index says none, by URL.
	Archives map[string]string `json:"archives,omitempty"`
}

func openHelmIndex(s *shelf, a address, creds Credentials, limits Limits) (*helmIndex, error) {
	t, err := httpTransport(creds, limits)
	if err != nil {
		return nil, err
	}
	h := &helmIndex{name: a.String(), creds: creds, limits: limits, base: &url.URL{Scheme: a.scheme, Host: a.host, Path: strings.TrimSuffix(a.path, "/") + "/"},
		http: t, client: &http.Client{Transport: watched{t}, CheckRedirect: withoutCredentials}, dir: s, file: filepath.Join(s.dir, "index.yaml"), known: map[string][]chartVersion{}}
	h.remember()
	return h, nil
}

// remember takes up what an earlier process knew, if the file is still the one it is about.
func (h *helmIndex) remember() {
	about, err := os.ReadFile(h.file + ".json")
	if err != nil || json.Unmarshal(about, &h.etags) != nil {
		return
	}
	if sum, err := sumOf(h.file); err != nil || sum != h.etags.Sum {
		h.etags = validators{}
	}
}

func sumOf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digestOfReader(f)
}

// versions are those of a chart, by an answer that was asked for after now.
func (h *helmIndex) versions(ctx context.Context, chart string) ([]chartVersion, error) {
	asked := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.begun.After(asked) { // or else somebody else's question was answered while this one waited
		h.begun = time.Now()
		h.err = h.refresh(ctx)
	}
	if h.err != nil {
		return nil, h.err
	}
	if all, ok := h.known[chart]; ok {
		return all, nil
	}
	f, err := os.Open(h.file)
	if err != nil {
		h.etags = validators{} // the next question brings it again
		return nil, storageError(err)
	}
	defer f.Close()
	all, err := indexed(f, chart)
	if err == nil {
		h.known[chart] = all
	}
	return all, err
}

// get asks with credentials where they belong: at the repository's own origin.
func (h *helmIndex) get(ctx context.Context, u *url.URL, v validators) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, badIndex("it names a URL that is none")
	}
	req.Header.Set("User-Agent", "gitopsd")
	if originOf(u) == originOf(h.base) {
		switch {
		case h.creds.BearerToken != "":
			req.Header.Set("Authorization", "Bearer "+h.creds.BearerToken)
		case h.creds.Username+h.creds.Password != "":
			req.SetBasicAuth(h.creds.Username, h.creds.Password)
		}
	}
	if v.ETag != "" {
		req.Header.Set("If-None-Match", v.ETag)
	} else if v.LastModified != "" {
		req.Header.Set("If-Modified-Since", v.LastModified)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, tlsError(err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotModified {
		return resp, nil
	}
	resp.Body.Close()
	return nil, statusError(resp.StatusCode, "", h.creds.basicOrBearer())
}

// refresh has the newest index on disk. The caller holds mu.
func (h *helmIndex) refresh(ctx context.Context) error {
	resp, err := h.get(ctx, h.base.JoinPath("index.yaml"), h.etags)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return nil
	}
	sum, err := h.keep(resp.Body)
	if err != nil {
		return err
	}
	h.known = map[string][]chartVersion{}
	h.etags = validators{ETag: resp.Header.Get("ETag"), LastModified: lastModified(resp.Header), Sum: sum}
	return h.note()
}

// lastModified is when an answer was last changed, if that can tell it from the next: what was changed in the second in which it was
// sent may be changed once more in it (RFC 9110, 8.8.2.2).
func lastModified(h http.Header) string {
	changed, err := http.ParseTime(h.Get("Last-Modified"))
	sent, sentErr := http.ParseTime(h.Get("Date"))
	if err != nil || sentErr != nil || sent.Sub(changed) < time.Second {
		return ""
	}
	return h.Get("Last-Modified")
}

// note writes down what is known of the index on disk. The caller holds mu.
func (h *helmIndex) note() error {
	about, err := json.Marshal(h.etags)
	if err == nil {
		err = writeFile(h.file+".json", about)
	}
	if err != nil {
		return storageError(err)
	}
	return nil
}

// fetchedSum is the digest of an archive of which the index says none, if it was fetched since the index is what it is.
func (h *helmIndex) fetchedSum(url string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.etags.Archives[url]
}

func (h *helmIndex) noteSum(url, digest string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.etags.Archives == nil {
		h.etags.Archives = map[string]string{}
	}
	h.etags.Archives[url] = digest
	return h.note()
}

// keep writes an index to disk, up to a limit.
func (h *helmIndex) keep(body io.Reader) (sum string, err error) {
	f, err := os.CreateTemp(filepath.Dir(h.file), leftoverName)
	if err != nil {
		return "", storageError(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	in := &counted{r: io.LimitReader(body, h.limits.Index+1)}
	if sum, err = digestOfReader(io.TeeReader(in, f)); err != nil {
		return "", err
	}
	if in.n > h.limits.Index {
		return "", &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the repository's index has more than %d MiB", h.limits.Index>>20), Next: "drop old versions from it"}
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), h.file)); err != nil {
		return "", storageError(err)
	}
	return sum, nil
}

// helmChart is one chart of a repository over HTTP.
type helmChart struct {
	index *helmIndex
	chart string
	shelf *shelf

	bad map[string]error // archives that were refused, by digest
}

func (c *helmChart) name() string { return c.index.name }

// read is a round: what every ref is now.
func (c *helmChart) read(ctx context.Context, refs []Ref) (map[Ref]result, error) {
	ctx, stop := roundOf(ctx, c.index.limits)
	defer stop()
	versions, err := c.index.versions(ctx, c.chart)
	if err != nil {
		return nil, classify(ctx, c.name(), err)
	}
	out := make(map[Ref]result, len(refs))
	for _, ref := range refs {
		s, err := c.snapshot(ctx, ref, versions)
		if err != nil && ofTheRound(err) {
			return nil, classify(ctx, c.name(), err)
		}
		out[ref] = result{snapshot: s, err: classify(ctx, c.name(), err)}
	}
	return out, nil
}

func (c *helmChart) snapshot(ctx context.Context, ref Ref, versions []chartVersion) (Snapshot, error) {
	v, err := c.choose(ref, versions)
	if err != nil {
		return Snapshot{}, err
	}
	digest, a, err := c.bring(ctx, v)
	if err != nil {
		return Snapshot{}, err
	}
	return a.snapshot(c.name(), v.Version, digest), nil
}

// choose finds the version that a ref names.
func (c *helmChart) choose(ref Ref, versions []chartVersion) (chartVersion, error) {
	if len(versions) == 0 {
		return chartVersion{}, &Error{Class: ErrRefNotFound, Text: "the repository has no chart " + quote(c.chart), Next: "correct source.chart, or push it"}
	}
	want := ref.Tag
	if want == "" && ref.Digest == "" {
		names := make([]string, len(versions))
		for i, v := range versions {
			names[i] = v.Version
		}
		wanted := ref.Semver
		if wanted == "" {
			wanted = "*"
		}
		best, err := highest(wanted, names, semver.NewVersion)
		if err != nil {
			return chartVersion{}, err
		}
		want = best
	}
	for _, v := range versions {
		if v.Version == want || ref.Digest != "" && v.sum() == ref.Digest {
			return v, nil
		}
	}
	if ref.Digest != "" {
		return chartVersion{}, &Error{Class: ErrRefNotFound, Text: "the index has no archive of chart " + quote(c.chart) + " with digest " + ref.Digest, Next: "correct ref.digest, or name a version in ref.tag"}
	}
	return chartVersion{}, &Error{Class: ErrRefNotFound, Text: "the repository has no version " + quote(want) + " of chart " + quote(c.chart), Next: "correct ref.tag, or push it"}
}

// sum is the digest that the index says; "" when it says none.
func (v chartVersion) sum() string {
	if d := digestPrefix + strings.ToLower(strings.TrimPrefix(v.Digest, digestPrefix)); isDigest(d) {
		return d
	}
	return ""
}

// bring has the chart's files on the shelf.
func (c *helmChart) bring(ctx context.Context, v chartVersion) (string, *archive, error) {
	if len(v.URLs) == 0 {
		return "", nil, badIndex("version " + quote(v.Version) + " of chart " + quote(c.chart) + " has no URL")
	}
	digest := v.sum()
	if digest == "" {
		digest = c.index.fetchedSum(v.URLs[0])
	}
	if err := c.bad[digest]; err != nil {
		return "", nil, err
	}
	if a, err := c.shelf.at(digest); err == nil {
		return digest, a, nil
	}
	return c.fetch(ctx, v)
}

// fetch downloads an archive and packs it.
func (c *helmChart) fetch(ctx context.Context, v chartVersion) (string, *archive, error) {
	f, digest, err := c.index.archive(ctx, c.shelf, v)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if v.sum() == "" {
		if err := c.index.noteSum(v.URLs[0], digest); err != nil {
			return "", nil, err
		}
	}
	a, err := c.shelf.put(digest, func(p *packer) (about, error) {
		z, err := p.unzip(f)
		if err == nil {
			err = p.tarball(z, true)
		}
		if err == nil && p.root.child("Chart.yaml") == nil {
			err = &Error{Class: ErrBroken, Text: "the archive of chart " + quote(c.chart) + " holds no Chart.yaml", Next: "push it again with helm package"}
		}
		return v.about(c.chart), err
	})
	if err != nil && !ofTheRound(err) {
		c.bad = map[string]error{digest: err}
	}
	return digest, a, err
}

func (v chartVersion) about(chart string) about {
	a := about{Name: v.Version, Subject: oneLine(chart + " " + v.Version)}
	if t, err := time.Parse(time.RFC3339Nano, v.Created); err == nil {
		a.Time = t.UTC()
	}
	return a
}

// archive downloads the archive of a version and checks it against the index.
func (h *helmIndex) archive(ctx context.Context, s *shelf, v chartVersion) (*os.File, string, error) {
	ref, err := url.Parse(v.URLs[0])
	if err != nil {
		return nil, "", badIndex("version " + quote(v.Version) + " has a URL that is none")
	}
	u := h.base.ResolveReference(ref)
	if u.Scheme != "https" && u.Scheme != "http" || h.base.Scheme == "https" && u.Scheme == "http" {
		return nil, "", &Error{Class: ErrRefused, Text: "the index names an archive at " + quote(u.Redacted()) + ", which is not reached by " + h.base.Scheme, Next: "have the index name it by https"}
	}
	u.User = nil // what an index says is no secret of ours
	resp, err := h.get(ctx, u, validators{})
	if err != nil {
		return nil, "", archiveError(u, err)
	}
	defer resp.Body.Close()
	f, digest, err := s.download(resp.Body, h.limits.Archive)
	if err != nil {
		return nil, "", err
	}
	if want := v.sum(); want != "" && want != digest {
		f.Close()
		return nil, "", &Error{Class: ErrBroken, Text: fmt.Sprintf("the archive of version %s has digest %s and not the index' %s", quote(v.Version), digest, want),
			Next: "make the index anew with helm repo index, and find out who changed the archive"}
	}
	return f, digest, nil
}

// archiveError names the archive, of which the error is.
func archiveError(u *url.URL, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	named := *e
	named.Text = "archive " + u.Redacted() + ": " + e.Text
	if e.Class == ErrNotFound {
		named.Class, named.Next = ErrRefNotFound, "push the archive that the index names, or make the index anew"
	}
	return &named
}

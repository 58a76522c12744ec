package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Media types of what is read. Others are read by their ending, or by what annotations say of them.
const (
	chartLayer = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	fluxLayer  = "application/vnd.cncf.flux.content.v1.tar+gzip"
	orasTitle  = ocispec.AnnotationTitle
	orasUnpack = "io.deis.oras.content.unpack"
)

// Loose limits of a registry's answers.
const (
	mostManifest = 4 << 20 // bytes, as registries have it
	mostTags     = 100_000
	mostPages    = 2_000
	mostLayers   = 128
)

// ociRepository is one repository of a registry, seen with one set of credentials.
type ociRepository struct {
	name   string // as people write it
	repo   *orasremote.Repository
	chart  bool // its artifacts are charts
	creds  Credentials
	shelf  *shelf
	limits Limits
	http   *http.Transport
	tried  bool // how the registry is spoken to is known

	bad map[string]error // artifacts that were fetched whole and refused; another push is another digest
}

// openOCI makes ready what reads a repository. Nothing is sent yet.
func openOCI(a address, chart string, creds Credentials, shelf *shelf, limits Limits) (*ociRepository, error) {
	t, err := httpTransport(creds, limits)
	if err != nil {
		return nil, err
	}
	where := strings.Trim(a.path, "/")
	if chart != "" {
		where = strings.Trim(where+"/"+chart, "/")
	}
	repo := &orasremote.Repository{Reference: registry.Reference{Registry: a.host, Repository: where}, PlainHTTP: a.scheme == "oci+http", MaxMetadataBytes: mostManifest}
	if err := repo.Reference.Validate(); err != nil {
		return nil, refusedURL("the repository's URL names no repository of a registry", "write oci://host/repository, in lower case")
	}
	repo.Client = &auth.Client{
		Client:     &http.Client{Transport: watched{t}, CheckRedirect: withoutCredentials},
		Header:     http.Header{"User-Agent": {"gitopsd"}},
		Cache:      auth.NewCache(),
		Credential: auth.StaticCredential(repo.Reference.Host(), ociCredential(creds)),
	}
	o := &ociRepository{name: a.String(), http: t, repo: repo, chart: chart != "", creds: creds, shelf: shelf, limits: limits, bad: map[string]error{}}
	o.tried = !thisMachine(a.host)
	return o, nil
}

func ociCredential(c Credentials) auth.Credential {
	return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.identityToken, AccessToken: c.BearerToken}
}

// thisMachine says that a host is this machine, whichever port.
func thisMachine(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	return loopback(strings.Trim(name, "[]"))
}

// watched touches the watchdog of a request's context with all that comes.
type watched struct{ http.RoundTripper }

type dogKey struct{}

func (w watched) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(req)
	if dog, ok := req.Context().Value(dogKey{}).(*watchdog); ok && err == nil {
		dog.touch()
		resp.Body = attentive{resp.Body, dog}
	}
	return resp, err
}

// withoutCredentials follows redirects as registries use them for blobs: to another origin without credentials, and never
// from https to http.
func withoutCredentials(req *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL, req.URL
	switch {
	case len(via) > 5:
		return &Error{Class: ErrRefused, Text: "the server redirects in circles", Next: "use the final URL"}
	case to.Scheme != "https" && to.Scheme != "http", from.Scheme == "https" && to.Scheme == "http":
		return &Error{Class: ErrRefused, Text: "the server redirects from " + from.Scheme + " to " + quote(to.Scheme), Next: "use the final URL"}
	case originOf(via[0].URL) != originOf(to): // of the first: every hop's headers are made of its
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

// roundOf gives a round its limits of time.
func roundOf(ctx context.Context, l Limits) (context.Context, func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.Total,
		&Error{Class: ErrTimeout, Text: "the fetch took longer than " + l.Total.String(), Next: "check the server; gitopsd tries again by itself"})
	ctx, dog, stop := watch(ctx, l.Stall)
	return context.WithValue(ctx, dogKey{}, dog), func() { stop(); cancel() }
}

// read is a round: what every ref is now.
func (o *ociRepository) read(ctx context.Context, refs []Ref) (map[Ref]result, error) {
	ctx, stop := roundOf(ctx, o.limits)
	defer stop()
	out := make(map[Ref]result, len(refs))
	list := &tagList{o: o}
	for _, ref := range refs {
		s, err := o.snapshot(ctx, ref, list)
		if err != nil && ofTheRound(err) {
			return nil, classify(ctx, o.name, err)
		}
		out[ref] = result{snapshot: s, err: classify(ctx, o.name, err)}
	}
	return out, nil
}

// ofTheRound says that an error is the server's, so that it holds for every ref.
func ofTheRound(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return true
	}
	return !slices.Contains([]error{ErrRefNotFound, ErrTooLarge, ErrBroken, ErrRefused}, e.Class)
}

func (o *ociRepository) snapshot(ctx context.Context, ref Ref, list *tagList) (Snapshot, error) {
	tag, err := o.tag(ctx, ref, list)
	if err != nil {
		return Snapshot{}, err
	}
	desc, err := o.resolve(ctx, tag)
	if err != nil {
		return Snapshot{}, err
	}
	a, err := o.bring(ctx, desc, o.version(tag))
	if err != nil {
		return Snapshot{}, err
	}
	return a.snapshot(o.name, o.version(tag), desc), nil
}

// tag is what the registry is asked for: a tag or a digest.
func (o *ociRepository) tag(ctx context.Context, ref Ref, list *tagList) (string, error) {
	switch {
	case ref.Digest != "":
		return ref.Digest, nil
	case ref.Tag != "" && o.chart:
		return strings.ReplaceAll(ref.Tag, "+", "_"), nil // as Helm pushes them
	case ref.Tag != "":
		return ref.Tag, nil
	case ref.Semver != "" || o.chart:
		return list.highest(ctx, ref.Semver)
	}
	return "latest", nil
}

// version is a tag as people know it.
func (o *ociRepository) version(tag string) string {
	if o.chart && !isDigest(tag) {
		return strings.ReplaceAll(tag, "_", "+")
	}
	return tag
}

// tagList is read at most once in a round.
type tagList struct {
	o    *ociRepository
	read bool
	tags []string
}

func (l *tagList) highest(ctx context.Context, wanted string) (string, error) {
	if wanted == "" {
		wanted = "*"
	}
	if !l.read {
		pages := 0
		err := l.o.try(func() error {
			l.tags, pages = nil, 0
			return l.o.repo.Tags(ctx, "", func(page []string) error {
				pages++
				if l.tags = append(l.tags, page...); len(l.tags) > mostTags || pages > mostPages {
					return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the registry lists more than %d tags, or never ends", mostTags), Next: "name a tag in ref"}
				}
				return nil
			})
		})
		if err != nil {
			return "", l.o.explain(err, "")
		}
		l.read = true
	}
	versions := make([]string, len(l.tags))
	for i, t := range l.tags {
		versions[i] = l.o.version(t)
	}
	best, err := highest(wanted, versions, strictVersion)
	if err != nil {
		return "", err
	}
	if l.o.chart {
		best = strings.ReplaceAll(best, "+", "_")
	}
	return best, nil
}

// try asks, and asks a registry on this machine that speaks no TLS once more without.
func (o *ociRepository) try(ask func() error) error {
	err := ask()
	if !o.tried && errors.Is(err, http.ErrSchemeMismatch) {
		o.repo.PlainHTTP = true
		err = ask()
	}
	o.tried = o.tried || err == nil
	return err
}

// resolve turns a tag into a digest. A digest is asked for too: that the archive is on the shelf does not say that these credentials
// may see it. A HEAD is enough where the registry answers it with a digest: a GET of a manifest counts as a pull at some.
func (o *ociRepository) resolve(ctx context.Context, tag string) (string, error) {
	var desc ocispec.Descriptor
	err := o.try(func() (err error) {
		desc, err = o.repo.Manifests().Resolve(ctx, tag)
		return err
	})
	var answered *errcode.ErrorResponse
	if err != nil && !errors.Is(err, errdef.ErrNotFound) && !errors.As(err, &answered) && ctx.Err() == nil {
		desc, err = o.fetchedDescriptor(ctx, tag, err)
	}
	if err != nil {
		return "", o.explain(err, tag)
	}
	if d := desc.Digest.String(); isDigest(d) && (d == tag || !isDigest(tag)) {
		return d, nil
	}
	return "", &Error{Class: ErrBroken, Text: "the registry names the artifact by " + quote(desc.Digest.String()) + ", which is no sha256 digest"}
}

// fetchedDescriptor is for registries that answer HEAD without a digest; cause is returned when it is something else.
func (o *ociRepository) fetchedDescriptor(ctx context.Context, tag string, cause error) (ocispec.Descriptor, error) {
	desc, body, err := o.repo.Manifests().FetchReference(ctx, tag)
	if err != nil {
		return desc, cause
	}
	return desc, body.Close()
}

// bring has the artifact on the shelf.
func (o *ociRepository) bring(ctx context.Context, digest, name string) (*archive, error) {
	if err := o.bad[digest]; err != nil {
		return nil, err
	}
	if a, err := o.shelf.at(digest); err == nil {
		return a, nil
	}
	m, err := o.manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	a, err := o.shelf.put(digest, func(p *packer) (about, error) { return o.fill(ctx, p, m, name) })
	if err != nil && !ofTheRound(err) {
		o.bad = map[string]error{digest: err}
	}
	return a, err
}

// manifest reads a manifest and checks it against its digest.
func (o *ociRepository) manifest(ctx context.Context, want string) (*ocispec.Manifest, error) {
	var data []byte
	err := o.try(func() error {
		_, body, err := o.repo.Manifests().FetchReference(ctx, want)
		if err != nil {
			return err
		}
		defer body.Close()
		data, err = io.ReadAll(io.LimitReader(body, mostManifest+1))
		return err
	})
	switch {
	case err != nil:
		return nil, o.explain(err, want)
	case len(data) > mostManifest:
		return nil, &Error{Class: ErrTooLarge, Text: "the artifact's manifest is too large", Next: "push it with fewer layers"}
	case digestOf(data) != want:
		return nil, &Error{Class: ErrUnreachable, Text: "the registry sends another manifest than the one asked for (" + want + ")", Next: "gitopsd tries again by itself"}
	}
	return parseManifest(data)
}

// parseManifest reads what a stranger wrote.
func parseManifest(data []byte) (*ocispec.Manifest, error) {
	var m struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, &Error{Class: ErrBroken, Text: "the artifact's manifest is no JSON", Next: "push it again"}
	}
	switch {
	case len(m.Manifests) > 0:
		return nil, &Error{Class: ErrRefused, Text: "the artifact is an index of several manifests", Next: "name the digest of one of them in ref"}
	case len(m.Layers) == 0 || len(m.Layers) > mostLayers:
		return nil, &Error{Class: ErrRefused, Text: fmt.Sprintf("the artifact has %d layers", len(m.Layers)), Next: "push files with flux push artifact, oras push or helm push"}
	}
	for _, l := range m.Layers {
		if !isDigest(l.Digest.String()) || l.Size < 0 {
			return nil, &Error{Class: ErrBroken, Text: "a layer of the artifact has no sha256 digest, or no size", Next: "push it again"}
		}
	}
	return &m.Manifest, nil
}

// fill packs the artifact's layers, each after the other; what comes later replaces what came before.
func (o *ociRepository) fill(ctx context.Context, p *packer, m *ocispec.Manifest, name string) (about, error) {
	layers, left := m.Layers, o.limits.Archive
	if o.chart {
		l, err := o.chartLayer(m)
		if err != nil {
			return about{}, err
		}
		layers = []ocispec.Descriptor{l}
	}
	for _, l := range layers {
		if left -= l.Size; left < 0 {
			return about{}, tooLargeOnWire(o.limits.Archive)
		}
		if err := o.layer(ctx, p, l); err != nil {
			return about{}, err
		}
	}
	return aboutManifest(m, name), nil
}

func (o *ociRepository) chartLayer(m *ocispec.Manifest) (ocispec.Descriptor, error) {
	layers := slices.DeleteFunc(slices.Clone(m.Layers), func(l ocispec.Descriptor) bool { return l.MediaType != chartLayer })
	switch {
	case len(layers) != 1:
		return ocispec.Descriptor{}, &Error{Class: ErrRefused, Text: fmt.Sprintf("the artifact has %d charts in it", len(layers)), Next: "push it with helm push, or leave out source.chart if it is no chart"}
	case layers[0].Size > o.limits.Archive:
		return ocispec.Descriptor{}, tooLargeOnWire(o.limits.Archive)
	}
	return layers[0], nil
}

func tooLargeOnWire(limit int64) error {
	return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the archive has more than %d MiB", limit>>20), Next: "split it, or take large files out"}
}

// fetch downloads a layer and checks it against its digest.
func (o *ociRepository) fetch(ctx context.Context, l ocispec.Descriptor) (*os.File, error) {
	body, err := o.repo.Blobs().Fetch(ctx, l)
	if err != nil {
		return nil, o.explain(err, l.Digest.String())
	}
	defer body.Close()
	f, got, err := o.shelf.download(body, l.Size)
	if err == nil && got != l.Digest.String() {
		f.Close()
		err = &Error{Class: ErrUnreachable, Text: "the registry sends another layer than the one asked for (" + l.Digest.String() + ")", Next: "gitopsd tries again by itself"}
	}
	return f, err
}

// layer packs one layer.
func (o *ociRepository) layer(ctx context.Context, p *packer, l ocispec.Descriptor) error {
	f, err := o.fetch(ctx, l)
	if err != nil {
		return err
	}
	defer f.Close()
	title, unpack := l.Annotations[orasTitle], l.Annotations[orasUnpack] == "true"
	if title != "" && !unpack && !o.chart && l.MediaType != fluxLayer {
		return p.file(title, 0o644, l.Size, f) // oras push FILE: whatever its type, it is this file
	}
	return p.packed(f, l.MediaType, o.chart)
}

// packed takes in a tar, packed or not, by its media type.
func (p *packer) packed(r io.Reader, mediaType string, strip bool) error {
	kind, _, _ := strings.Cut(mediaType, ";")
	switch {
	case strings.HasSuffix(kind, "tar+gzip") || strings.HasSuffix(kind, ".tar.gzip") || strings.HasSuffix(kind, "/gzip") || strings.HasSuffix(kind, "x-gzip"):
		z, err := p.unzip(r)
		if err != nil {
			return err
		}
		return p.tarball(z, strip)
	case strings.HasSuffix(kind, "tar"):
		return p.tarball(r, strip)
	}
	return &Error{Class: ErrRefused, Text: "the artifact has a layer of media type " + quote(mediaType) + " without a title", Next: "push files with flux push artifact, oras push or helm push"}
}

// aboutManifest is what the annotations say: flux push artifact writes where the files came from.
func aboutManifest(m *ocispec.Manifest, name string) about {
	a := about{Name: name, Subject: name, Author: oneLine(m.Annotations[ocispec.AnnotationAuthors])}
	for _, key := range []string{ocispec.AnnotationTitle, ocispec.AnnotationRevision} {
		if v := oneLine(m.Annotations[key]); v != "" && v != name {
			a.Subject += " " + v
		}
	}
	if t, err := time.Parse(time.RFC3339, m.Annotations[ocispec.AnnotationCreated]); err == nil {
		a.Time = t.UTC()
	}
	return a
}

// explain makes an error of ours of the library's. what is the tag or digest that was asked for.
func (o *ociRepository) explain(err error, what string) error {
	var ours *Error
	if errors.As(err, &ours) {
		return err
	}
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, errdef.ErrNotFound) && what != "":
		return &Error{Class: ErrRefNotFound, Text: "the registry has no artifact " + quote(what) + " there", Next: "push it, or correct the repository or ref"}
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return statusError(http.StatusUnauthorized, "", false)
	case errors.As(err, &answer):
		said := ""
		if len(answer.Errors) > 0 {
			said = answer.Errors[0].Code
		}
		return statusError(answer.StatusCode, said, o.creds.basicOrBearer() || o.creds.identityToken != "")
	}
	return tlsError(err)
}

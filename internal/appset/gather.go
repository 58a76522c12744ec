package appset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/generate"
	"github.com/gitopsd/gitopsd/internal/review"
	"github.com/gitopsd/gitopsd/internal/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	defaultInterval = time.Minute
	shortest        = time.Second
	// shortestForge is how often a forge's API is asked at most: they count requests.
	shortestForge = 10 * time.Second
	// clustersInterval is the time between two looks at the clusters of a namespace: a watch would need rights over all of them.
	clustersInterval = 10 * time.Second
)

// errNotYet says that a repository has not answered for the first time.
var errNotYet = errors.New("the repository is being read for the first time")

// errTransient is a fault that may be over by itself.
type errTransient struct{ error }

func (e errTransient) Unwrap() error { return e.error }

// transient is what of an error is worth another try.
func transient(err error) error {
	if t := (errTransient{}); errors.As(err, &t) {
		return err
	}
	return nil
}

// gather puts the parameters of all generators together. Again is when the one that has to be asked soonest is due.
func (c *controller) gather(ctx context.Context, set *v1alpha1.ApplicationSet) (all []generate.Params, again time.Duration, err error) {
	g := &gathering{controller: c, set: set, keeps: map[followed]bool{}}
	var errs []error
	var waits error
	for n, generator := range set.Spec.Generators {
		params, err := g.one(ctx, generator)
		if err != nil {
			err = fmt.Errorf("spec.generators[%d]: %w", n, err)
		}
		if errors.Is(err, errNotYet) {
			waits = err
			continue
		}
		errs = append(errs, err)
		for _, p := range params {
			if len(generator.Values) > 0 {
				p["values"] = textMap(generator.Values)
			}
			all = append(all, p)
		}
	}
	c.keepOnly(keyOf(set), g.keeps)
	if err := errors.Join(errs...); err != nil {
		return nil, g.again, err
	}
	return all, g.again, waits
}

// gathering is one look at the generators of a set.
type gathering struct {
	*controller
	set   *v1alpha1.ApplicationSet
	keeps map[followed]bool
	again time.Duration
}

func (g *gathering) one(ctx context.Context, generator v1alpha1.Generator) ([]generate.Params, error) {
	switch {
	case generator.List != nil:
		return listParams(generator.List)
	case generator.Directories != nil:
		s, err := g.tree(ctx, generator.Directories.GeneratorSource)
		if err != nil {
			return nil, err
		}
		return generate.Directories(s.FS, generator.Directories.Paths)
	case generator.Files != nil:
		s, err := g.tree(ctx, generator.Files.GeneratorSource)
		if err != nil {
			return nil, err
		}
		return generate.Files(s.FS, generator.Files.Paths)
	case generator.Branches != nil:
		return g.branches(ctx, generator.Branches)
	case generator.PullRequests != nil:
		return g.pullRequests(ctx, generator.PullRequests)
	case generator.Clusters != nil:
		return g.clusters(ctx, generator.Clusters)
	}
	return nil, errors.New("it names no kind of generator")
}

func listParams(l *v1alpha1.ListGenerator) ([]generate.Params, error) {
	var out []generate.Params
	for n, e := range l.Elements {
		p := generate.Params{}
		if err := json.Unmarshal(e.Raw, &p); err != nil {
			return nil, fmt.Errorf("list.elements[%d] is no map", n)
		}
		out = append(out, p)
	}
	return out, nil
}

func (g *gathering) branches(ctx context.Context, b *v1alpha1.BranchesGenerator) ([]generate.Params, error) {
	match, err := regexp.Compile("^(?:" + b.Match + ")$")
	if err != nil {
		return nil, fmt.Errorf("branches.match: %w", err)
	}
	spec, err := g.spec(ctx, b.Repo, v1alpha1.Ref{}, b.SecretRef)
	if err != nil {
		return nil, err
	}
	if err := g.due(b.Interval, shortest); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	heads, err := g.Sources.Branches(ctx, spec)
	if err != nil {
		return nil, errTransient{err}
	}
	var out []generate.Params
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		if b.Match == "" || match.MatchString(name) {
			out = append(out, generate.Params{"branch": name, "branchNormalized": generate.Normalize(name), "sha": heads[name], "shortSha": heads[name][:8]})
		}
	}
	return out, nil
}

func (g *gathering) pullRequests(ctx context.Context, r *v1alpha1.PullRequestsGenerator) ([]generate.Params, error) {
	forge := review.Forge{API: r.URL}
	if r.SecretRef != nil {
		data, err := g.secret(ctx, r.SecretRef)
		if err != nil {
			return nil, err
		}
		if forge.Token = strings.TrimSpace(string(data["token"])); forge.Token == "" {
			return nil, fmt.Errorf("Secret %s/%s has no key token; add it", g.set.Namespace, r.SecretRef.Name)
		}
	}
	if err := g.due(r.Interval, shortestForge); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	open, err := review.PullRequests(ctx, forge, r.Owner, r.Repo)
	if err != nil {
		return nil, errTransient{err}
	}
	var out []generate.Params
	for _, p := range open {
		if slices.ContainsFunc(r.Labels, func(l string) bool { return !slices.Contains(p.Labels, l) }) {
			continue
		}
		out = append(out, generate.Params{"number": fmt.Sprint(p.Number), "title": p.Title, "author": p.Author, "branch": p.Branch, "branchNormalized": generate.Normalize(p.Branch),
			"targetBranch": p.Target, "sha": p.Commit, "shortSha": p.Commit[:min(8, len(p.Commit))], "labels": p.Labels})
	}
	return out, nil
}

func (g *gathering) clusters(ctx context.Context, c *v1alpha1.ClustersGenerator) ([]generate.Params, error) {
	selector, err := metav1.LabelSelectorAsSelector(c.Selector)
	if err != nil {
		return nil, fmt.Errorf("clusters.selector: %w", err)
	}
	if c.Selector == nil {
		selector = labels.Everything()
	}
	g.dueIn(clustersInterval)
	list, err := g.kube.CoreV1().ConfigMaps(g.set.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ClusterLabel})
	if err != nil {
		return nil, errTransient{fmt.Errorf("list the clusters of namespace %s: %w", g.set.Namespace, err)}
	}
	var out []generate.Params
	for _, m := range list.Items {
		if selector.Matches(labels.Set(m.Labels)) {
			out = append(out, generate.Params{"name": m.Name, "nameNormalized": generate.Normalize(m.Name), "labels": textMap(m.Labels),
				"annotations": textMap(m.Annotations), "data": textMap(m.Data)})
		}
	}
	return out, nil
}

func textMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// due notes when a generator has to be asked again.
func (g *gathering) due(interval *metav1.Duration, least time.Duration) error {
	every := defaultInterval
	if interval != nil {
		every = interval.Duration
	}
	if every < least {
		return fmt.Errorf("interval %s is too short; at least %s", every, least)
	}
	g.dueIn(every)
	return nil
}

func (g *gathering) dueIn(every time.Duration) {
	if g.again == 0 || every < g.again {
		g.again = every
	}
}

// spec is what to read, with the credentials that the set names.
func (g *gathering) spec(ctx context.Context, repo string, ref v1alpha1.Ref, secret *v1alpha1.LocalReference) (source.Spec, error) {
	spec := source.Spec{URL: repo, Ref: source.Ref{Branch: ref.Branch, Tag: ref.Tag, Semver: ref.Semver, Commit: ref.Commit}}
	if err := g.Allowed(g.set.Namespace, repo); err != nil {
		return spec, err
	}
	if secret == nil {
		return spec, nil
	}
	data, err := g.secret(ctx, secret)
	if err != nil {
		return spec, err
	}
	if spec.Credentials, err = source.CredentialsFromSecret(data); err != nil {
		return spec, fmt.Errorf("Secret %s/%s: %w", g.set.Namespace, secret.Name, err)
	}
	return spec, nil
}

func (g *gathering) secret(ctx context.Context, ref *v1alpha1.LocalReference) (map[string][]byte, error) {
	secret, err := g.kube.CoreV1().Secrets(g.set.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, errTransient{fmt.Errorf("secretRef: there is no Secret %s in namespace %s; create it", ref.Name, g.set.Namespace)}
	}
	if err != nil {
		return nil, errTransient{fmt.Errorf("read Secret %s/%s: %w", g.set.Namespace, ref.Name, err)}
	}
	return secret.Data, nil
}

package pipeline

import (
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
)

// environment is what charts see of the cluster. It is asked for at most once a minute, however many Applications render.
type environment struct {
	mu    sync.Mutex
	known render.Cluster
	at    time.Time
}

// fresh is how long an answer of the cluster about itself is used.
const fresh = time.Minute

func (e *environment) get(d discovery.DiscoveryInterface) (render.Cluster, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.at) < fresh {
		return e.known, nil
	}
	said, err := d.ServerVersion()
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) { // a gateway that shows the API alone
		said, err = &apiversion.Info{}, nil
	}
	if err != nil {
		return e.known, err
	}
	groups, lists, err := d.ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // of an aggregated API that is down: the others stand
		return e.known, err
	}
	e.known, e.at = render.Cluster{APIVersions: versionsOf(groups, lists)}, time.Now()
	e.known.KubeVersion = comparable(said)
	return e.known, nil
}

// comparable is a version as charts compare it. A server that was built without one says v0.0.0, and knows its minor version all the same.
func comparable(v *apiversion.Info) string {
	if released.MatchString(v.GitVersion) {
		return v.GitVersion
	}
	major, minor := digits.FindString(v.Major), digits.FindString(v.Minor)
	if major == "" || minor == "" {
		return "" // that of the libraries
	}
	return "v" + major + "." + minor + ".0"
}

var (
	released = regexp.MustCompile(`^v?[1-9][0-9]*\.[0-9]+`)
	digits   = regexp.MustCompile(`^[0-9]+`)
)

// versionsOf lists groups with their versions, and those with their kinds, as Helm does (action.GetVersionSet).
func versionsOf(groups []*metav1.APIGroup, lists []*metav1.APIResourceList) []string {
	var out []string
	for _, g := range groups {
		for _, v := range g.Versions {
			out = append(out, v.GroupVersion)
		}
	}
	for _, l := range lists {
		for _, r := range l.APIResources {
			out = append(out, l.GroupVersion+"/"+r.Kind)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

package appset

import (
	"context"
	"errors"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/source"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
)

// repository answers every subscription when it is told to, with the name of what was subscribed to in a file.
type repository struct {
	Sources
	hear      []func()
	cancelled int
}

func (r *repository) Subscribe(spec source.Spec, _ time.Duration, hear func(source.Event)) (func(), error) {
	tree := fstest.MapFS{"a.json": {Data: []byte(`{"ref": "` + spec.Ref.Branch + "|" + spec.Ref.Tag + `"}`)}}
	r.hear = append(r.hear, func() { hear(source.Event{Snapshot: source.Snapshot{FS: tree}}) })
	return func() { r.cancelled++ }, nil
}

// Generators that read one repository otherwise (another interval, a tag of the branch's name) are followed side by side: none takes the other's place.
func TestGeneratorsOfOneRepository(t *testing.T) {
	r := &repository{}
	c := &controller{Config: Config{Sources: r, Allowed: func(string, string) error { return nil }}, follows: map[types.NamespacedName]map[followed]*follow{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]())}
	defer c.queue.ShutDown()
	set := &v1alpha1.ApplicationSet{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s"}}
	add := func(ref v1alpha1.Ref, every time.Duration) {
		from := v1alpha1.GeneratorSource{Repo: "https://git.example.com/infra", Ref: ref, Interval: &metav1.Duration{Duration: every}}
		set.Spec.Generators = append(set.Spec.Generators, v1alpha1.Generator{Files: &v1alpha1.FilesGenerator{GeneratorSource: from, Paths: []v1alpha1.PathPattern{{Path: "*"}}}})
	}
	add(v1alpha1.Ref{Branch: "x"}, time.Minute)
	add(v1alpha1.Ref{Branch: "x"}, 5*time.Minute)
	add(v1alpha1.Ref{Tag: "x"}, time.Minute)
	if _, _, err := c.gather(context.Background(), set); !errors.Is(err, errNotYet) {
		t.Fatalf("error: %v", err)
	}
	for _, hear := range r.hear {
		hear()
	}
	params, _, err := c.gather(context.Background(), set)
	if err != nil || len(params) != 3 || params[0]["ref"] != "x|" || params[1]["ref"] != "x|" || params[2]["ref"] != "|x" {
		t.Errorf("gathered %v, %v", params, err)
	}
	if len(r.hear) != 3 || r.cancelled != 0 {
		t.Errorf("%d subscriptions, of which %d were cancelled", len(r.hear), r.cancelled)
	}
	set.Spec.Generators = set.Spec.Generators[1:]
	if _, _, err := c.gather(context.Background(), set); err != nil || r.cancelled != 1 {
		t.Errorf("%d were cancelled, %v", r.cancelled, err)
	}
}

package apply

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// WaveAnnotation on an object is the wave in which it is applied: an integer, 0 when absent. A wave begins when the one before it is
// written and healthy.
const WaveAnnotation = "gitopsd.io/wave"

// argoWave is read where ours is absent: what was written for Argo CD keeps its order.
const argoWave = "argocd.argoproj.io/sync-wave"

// CheckWave tells an annotation that is no wave.
func CheckWave(u *unstructured.Unstructured) error {
	for _, name := range []string{WaveAnnotation, argoWave} {
		if text, found := u.GetAnnotations()[name]; found {
			_, err := strconv.ParseInt(text, 10, 32)
			if err != nil {
				return fmt.Errorf("annotation %s is %q; it has to be an integer in quotes, such as \"-1\" or \"5\"", name, text)
			}
			return nil
		}
	}
	return nil
}

// waveOf is the wave of an object; one that CheckWave refuses is 0.
func waveOf(u *unstructured.Unstructured) int {
	for _, name := range []string{WaveAnnotation, argoWave} {
		if text, found := u.GetAnnotations()[name]; found {
			n, _ := strconv.ParseInt(text, 10, 32)
			return int(n)
		}
	}
	return 0
}

// Waves of objects in their order.
func Waves(objects []Object) []int {
	var out []int
	for _, o := range objects {
		out = append(out, waveOf(o.Unstructured))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Until are the objects of a wave and of those before it.
func Until(wave int, objects []Object) []Object {
	return slices.DeleteFunc(slices.Clone(objects), func(o Object) bool { return waveOf(o.Unstructured) > wave })
}

// inWave says whether a run is to write an object now.
func (r Revision) inWave(o Object) bool { return r.Wave == nil || *r.Wave == waveOf(o.Unstructured) }

// planned is what of a plan a run was to write.
func (r Revision) planned(p diff.Plan) diff.Plan {
	if r.Wave == nil {
		return p
	}
	now := map[diff.Ref]bool{}
	for _, o := range r.Desired {
		now[o.Ref()] = r.inWave(o)
	}
	p.Changes = slices.DeleteFunc(slices.Clone(p.Changes), func(c diff.Change) bool { return !now[c.Ref] })
	return p
}

// lastFirst orders what is to be deleted: later waves first, and in a wave users of things before the things.
func lastFirst(held []Held, wave map[diff.Ref]int) []Held {
	out := slices.Clone(held)
	slices.SortStableFunc(out, func(a, b Held) int {
		return cmp.Or(cmp.Compare(wave[b.Ref], wave[a.Ref]), cmp.Compare(stageOf(b.Ref.GroupKind()), stageOf(a.Ref.GroupKind())))
	})
	return out
}

package apply

import (
	"slices"
	"testing"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func inWave(kind, name string, annotations map[string]string) Object {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	u.SetName(name)
	u.SetAnnotations(annotations)
	return Object{Unstructured: u}
}

func TestWaves(t *testing.T) {
	objects := []Object{
		inWave("ConfigMap", "b", map[string]string{WaveAnnotation: "5"}),
		inWave("ConfigMap", "a", nil),
		inWave("ConfigMap", "c", map[string]string{WaveAnnotation: "-1", argoWave: "9"}),
		inWave("ConfigMap", "d", map[string]string{argoWave: "5"}),
	}
	if got := Waves(objects); !slices.Equal(got, []int{-1, 0, 5}) {
		t.Errorf("waves %v", got)
	}
	var until []string
	for _, o := range Until(0, objects) {
		until = append(until, o.GetName())
	}
	if !slices.Equal(until, []string{"a", "c"}) {
		t.Errorf("until wave 0: %v", until)
	}
	for text, good := range map[string]bool{"0": true, "-3": true, "+2": true, "1.5": false, "first": false, "": false, "99999999999": false} {
		for _, name := range []string{WaveAnnotation, argoWave} {
			if err := CheckWave(inWave("ConfigMap", "a", map[string]string{name: text}).Unstructured); (err == nil) != good {
				t.Errorf("%s %q: %v", name, text, err)
			}
		}
	}
}

// What goes goes in the opposite order: the last wave first, and in a wave what uses others before the others.
func TestLastFirst(t *testing.T) {
	held := func(group, kind, name string) Held { return Held{Ref: diff.Ref{Group: group, Kind: kind, Name: name}} }
	all := []Held{held("", "Namespace", "n0"), held("", "ConfigMap", "c2"), held("apps", "Deployment", "d0"), held("", "ConfigMap", "c0"), held("apps", "Deployment", "d2"), held("", "Secret", "s-1")}
	wave := map[diff.Ref]int{all[1].Ref: 2, all[4].Ref: 2, all[5].Ref: -1}
	var got []string
	for _, h := range lastFirst(all, wave) {
		got = append(got, h.Ref.Name)
	}
	if want := []string{"d2", "c2", "d0", "c0", "n0", "s-1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := (Undoing{Images: []Image{{Wave: 1}, {Wave: -2}, {}, {Wave: 1}}}).waves(); !slices.Equal(got, []int{1, 0, -2}) {
		t.Errorf("undone in waves %v", got)
	}
}

func TestAWavesPlanHasNoOther(t *testing.T) {
	now, later := inWave("ConfigMap", "a", nil), inWave("ConfigMap", "b", map[string]string{WaveAnnotation: "1"})
	p := diff.Plan{Changes: []diff.Change{{Ref: now.Ref(), Action: diff.Create}, {Ref: later.Ref(), Action: diff.Create}}}
	wave := 1
	got := Revision{Desired: []Object{now, later}, Wave: &wave}.planned(p)
	if len(got.Changes) != 1 || got.Changes[0].Ref != later.Ref() || len(p.Changes) != 2 {
		t.Errorf("%v of %v", got.Changes, p.Changes)
	}
}

package apply

import (
	"testing"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/types"
)

// An undo deletes what the intent made: the object of the inventory's UID, or where that is not known one with our mark. What has
// another Application's mark was there before, even if the inventory names it.
func TestMade(t *testing.T) {
	for name, c := range map[string]struct {
		held, uid, mark string
		made            bool
	}{
		"the one of the inventory":           {"1", "1", "uid/i/1", true},
		"another one of the name":            {"1", "2", "uid/i/1", false},
		"the answer was lost":                {"", "2", "uid/i/1", true},
		"somebody else's was first":          {"", "2", "", false},
		"another Application's, taken over":  {"1", "1", "other/i/1", false},
		"another Application's, not written": {"", "1", "other/i/1", false},
	} {
		live := inWave("ConfigMap", "a", map[string]string{MadeAnnotation: c.mark}).Unstructured
		live.SetUID(types.UID(c.uid))
		x := &undo{t: Target{Manager: "gitopsd", Maker: Maker{Application: "uid"}}, uids: map[diff.Ref]string{diff.RefOf(live): c.held}}
		if got := x.made(live); got != c.made {
			t.Errorf("%s: %v", name, got)
		}
	}
}

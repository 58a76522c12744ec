package apply

import (
	"slices"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A Job that ended is done: that it is gone, because its time to live has passed or somebody tidied up, is no drift, and no
// healing and no undo runs it again. What is declared otherwise is another Job.

var jobKind = schema.GroupKind{Group: "batch", Kind: "Job"}

// Finishes notes in an inventory the Jobs that have ended, and says whether there is one that was not noted yet. How tells by
// the UID how a Job ended: "Complete", "Failed", or "" if it has not, or nothing is known of it.
func Finishes(inventory []Held, objects []Object, how func(o Object, uid string) string) bool {
	news := false
	for _, o := range objects {
		if o.Ref().GroupKind() != jobKind {
			continue
		}
		n := slices.IndexFunc(inventory, func(h Held) bool { return h.Ref == o.Ref() })
		if n < 0 {
			continue
		}
		ended := how(o, inventory[n].UID)
		if noted := ended + "/" + declared(o); ended != "" && inventory[n].Finished != noted {
			inventory[n].Finished, news = noted, true
		}
	}
	return news
}

// Ending says how a live Job ended: "Complete", "Failed", or "" for one that runs and for everything else.
func Ending(job *unstructured.Unstructured) string {
	if job == nil || job.GroupVersionKind().GroupKind() != jobKind {
		return ""
	}
	for _, how := range []string{"Complete", "Failed"} {
		if condition(job, how) == "True" {
			return how
		}
	}
	return ""
}

func declared(o Object) string { return hash(o.Object)[:16] }

// Ended says how an object of the inventory ended that is declared as it was then: "Complete", "Failed", or "" if it did not.
func Ended(held []Held, o Object) string {
	if o.Ref().GroupKind() != jobKind {
		return ""
	}
	for _, h := range held {
		if h.Ref != o.Ref() {
			continue
		}
		for _, how := range []string{"Complete", "Failed"} {
			if h.Finished == how+"/"+declared(o) {
				return how
			}
		}
	}
	return ""
}

// done answers for a Job that ended and is gone.
func done(o Object) answer { return answer{change: diff.Change{Ref: o.Ref(), Action: diff.Unchanged}} }

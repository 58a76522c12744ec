package generate

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// SetLabel on an Application names the set that made it.
const SetLabel = "gitopsd.io/applicationset"

// Wanted are the Applications that a set asks for, by name. Every fault is told at once.
func Wanted(set *v1alpha1.ApplicationSet, params []Params) ([]*v1alpha1.Application, error) {
	return wanted(set, params, mostOfAll)
}

// wanted is Wanted with at most so many bytes.
func wanted(set *v1alpha1.ApplicationSet, params []Params, bytes int) ([]*v1alpha1.Application, error) {
	made := map[string]*v1alpha1.Application{}
	var errs []error
	all := 0
	for _, p := range params {
		app, size, err := application(set, p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if all += size; all > bytes {
			return nil, fmt.Errorf("the Applications of this set have more than %d bytes together; make the template shorter, or the set smaller", bytes)
		}
		if made[app.Name] != nil {
			errs = append(errs, fmt.Errorf("two sets of parameters make the Application %s; use more of them in spec.template.metadata.name", app.Name))
			continue
		}
		if app.Labels == nil {
			app.Labels = map[string]string{}
		}
		app.Labels[SetLabel] = set.Name
		made[app.Name] = app
	}
	if len(errs) > 0 {
		return nil, few(errs)
	}
	var out []*v1alpha1.Application
	for _, name := range slices.Sorted(maps.Keys(made)) {
		out = append(out, made[name])
	}
	return out, nil
}

// few joins errors, each said once, and of many the first ten.
func few(errs []error) error {
	var texts []string
	for _, err := range errs {
		if !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	if more := len(texts) - 10; more > 0 {
		texts = append(texts[:10], fmt.Sprintf("and %d more of this kind", more))
	}
	return errors.New(strings.Join(texts, "\n"))
}

// Plan is what a set would do.
type Plan struct {
	Create, Change []*v1alpha1.Application // as they are to be
	Delete         []string
	Withheld       []string // would be deleted, and are too many
	Kept           []string // are no longer asked for and stay, by spec.onRemove
	Unchanged      int
}

// Empty says that nothing is to be written.
func (p Plan) Empty() bool { return len(p.Create)+len(p.Change)+len(p.Delete) == 0 }

// Compare makes a plan of what is wanted and of the Applications of the namespace as they are. An Application that the set did not make is in its way.
func Compare(set *v1alpha1.ApplicationSet, wanted []*v1alpha1.Application, there []v1alpha1.Application) (Plan, error) {
	var plan Plan
	left := map[string]*v1alpha1.Application{}
	for n := range there {
		left[there[n].Name] = &there[n]
	}
	own := 0
	for _, app := range there {
		if madeBy(&app, set) {
			own++
		}
	}
	var errs []error
	for _, w := range wanted {
		old := left[w.Name]
		delete(left, w.Name)
		switch {
		case old == nil:
			plan.Create = append(plan.Create, w)
		case !madeBy(old, set):
			errs = append(errs, fmt.Errorf("Application %s is there, and this set did not make it; rename one, or give it the label %s: %s", w.Name, SetLabel, set.Name))
		case same(old, w):
			plan.Unchanged++
		default:
			plan.Change = append(plan.Change, w)
		}
	}
	if len(errs) > 0 {
		return Plan{}, few(errs)
	}
	for name, app := range left {
		if madeBy(app, set) && app.DeletionTimestamp == nil {
			plan.Delete = append(plan.Delete, name)
		}
	}
	slices.Sort(plan.Delete)
	switch {
	case set.Spec.OnRemove == v1alpha1.RemoveKeep:
		plan.Kept, plan.Delete = plan.Delete, nil
	case tooMany(len(plan.Delete), own, set.Spec.DeleteLimit):
		plan.Withheld, plan.Delete = plan.Delete, nil
	}
	return plan, nil
}

func madeBy(app *v1alpha1.Application, set *v1alpha1.ApplicationSet) bool {
	return app.Labels[SetLabel] == set.Name
}

// same says that an Application has all that the set declares. What others have added to its metadata is theirs.
func same(old, wanted *v1alpha1.Application) bool {
	return reflect.DeepEqual(Defaulted(old.Spec), Defaulted(wanted.Spec)) && within(wanted.Labels, old.Labels) && within(wanted.Annotations, old.Annotations)
}

// Defaulted is a spec with what the API fills in.
func Defaulted(s v1alpha1.ApplicationSpec) v1alpha1.ApplicationSpec {
	yes := true
	if s.Sync.Prune == nil {
		s.Sync.Prune = &yes
	}
	if s.Sync.Heal == nil {
		s.Sync.Heal = &yes
	}
	return s
}

func within(part, all map[string]string) bool {
	for k, v := range part {
		if have, found := all[k]; !found || have != v {
			return false
		}
	}
	return true
}

// many deletions that are more than half of all are more often a mistake than a wish.
const many = 5

func tooMany(n, all int, limit *intstr.IntOrString) bool {
	if limit == nil {
		return n >= many && n*2 > all
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(limit, all, false)
	return err != nil || n > most
}

// Owner makes the set the owner of an Application, so that it goes with the set.
func Owner(set *v1alpha1.ApplicationSet) metav1.OwnerReference {
	return *metav1.NewControllerRef(set, v1alpha1.GroupVersion.WithKind("ApplicationSet"))
}

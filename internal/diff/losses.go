package diff

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// loss is what one manager loses of the value at a spot: all of it, or what is below.
type loss struct {
	manager string
	at      time.Time
	whole   bool
	below   *fieldpath.Set
}

// losses compares who owns what before and after, and says what each manager loses to another one.
func losses(before, after *unstructured.Unstructured) []loss {
	had, has := ownership(before), ownership(after)
	var out []loss
	for owner, l := range had {
		lost, taken := l.below.Leaves(), fieldpath.NewSet()
		for other, now := range has {
			if other == owner {
				lost = lost.Difference(now.below)
			} else {
				taken = taken.Union(now.below)
			}
		}
		if l.below = lost.Intersection(taken); !l.below.Empty() {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b loss) int { return strings.Compare(a.manager, b.manager) })
	return out
}

// ownership is what each manager owns, its status apart. What a manager applies and what it writes otherwise are two
// ownerships to the API.
func ownership(u *unstructured.Unstructured) map[string]loss {
	out := map[string]loss{}
	for _, m := range u.GetManagedFields() {
		set := fieldSet(m)
		if set == nil || m.Subresource == "status" {
			continue
		}
		key := m.Manager + " " + string(m.Operation)
		l := out[key]
		l.manager, l.below = m.Manager, union(l.below, set)
		if m.Time != nil && m.Time.Time.After(l.at) {
			l.at = m.Time.Time.UTC()
		}
		out[key] = l
	}
	return out
}

// taken is the first manager that loses something at the spot.
func (s spot) taken() (string, time.Time) {
	if len(s.lost) == 0 {
		return "", time.Time{}
	}
	return s.lost[0].manager, s.lost[0].at
}

// below is a spot that ownership does not tell from the one above it.
func (s spot) below(step string) spot { return spot{s.path + step, s.lost} }

func (s spot) field(name string) spot {
	return s.follow(step(name), func(e fieldpath.PathElement) bool { return e.FieldName != nil && *e.FieldName == name })
}

func (s spot) item(label string, item any) spot {
	return s.follow(label, func(e fieldpath.PathElement) bool { return matches(item, e) })
}

// follow goes down to what is called by step, and takes along what is lost there.
func (s spot) follow(step string, is func(fieldpath.PathElement) bool) spot {
	next := spot{path: s.path + step}
	for _, l := range s.lost {
		if l.whole { // a list or map that is owned as one
			next.lost = append(next.lost, l)
			continue
		}
		for e := range l.below.Members.All() {
			if is(e) {
				next.lost = append(next.lost, loss{l.manager, l.at, true, fieldpath.NewSet()})
			}
		}
		for e := range l.below.Children.All() {
			if below, _ := l.below.Children.Get(e); is(e) {
				next.lost = append(next.lost, loss{l.manager, l.at, false, below})
			}
		}
	}
	return next
}

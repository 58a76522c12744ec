package health

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Rule says in CEL when objects of a kind are well. The expressions see the object's fields (apiVersion, kind, metadata, spec,
// status, data) and, for others, the whole as object. An absent field of these is an empty map.
type Rule struct {
	APIVersion, Kind            string // the version is not looked at: an object is the same in all of them
	Current, InProgress, Failed string // Current is required
}

// Rules judge objects: by the annotation of the object, or else by the rule of its kind, or else as Of does.
type Rules struct {
	kinds map[schema.GroupKind]compiled
}

type compiled struct{ inProgress, failed, current *expression }

// Compile reads rules. Every mistake is told at once, each with its rule, its expression and the place in that.
func Compile(rules []Rule) (*Rules, error) {
	out := &Rules{map[schema.GroupKind]compiled{}}
	var errs []error
	for _, r := range rules {
		gv, err := schema.ParseGroupVersion(r.APIVersion)
		gk := schema.GroupKind{Group: gv.Group, Kind: r.Kind}
		name := strings.TrimSpace(r.APIVersion + " " + r.Kind)
		switch _, twice := out.kinds[gk]; {
		case err != nil || gv.Version == "" || r.Kind == "":
			errs = append(errs, fmt.Errorf("rule for %q: it needs apiVersion and kind, such as example.org/v1 and Widget", name))
			continue
		case twice:
			errs = append(errs, fmt.Errorf("rule for %s: there are two for this kind; make one of them", name))
			continue
		case r.Current == "":
			errs = append(errs, fmt.Errorf("rule for %s: current is missing: the expression that is true when an object is well", name))
			continue
		}
		var c compiled
		for _, e := range []struct {
			name, source string
			to           **expression
		}{{"current", r.Current, &c.current}, {"inProgress", r.InProgress, &c.inProgress}, {"failed", r.Failed, &c.failed}} {
			if e.source == "" {
				continue
			}
			x, err := compile(e.source)
			if err != nil {
				errs = append(errs, fmt.Errorf("rule for %s: %s: %w", name, e.name, err))
			}
			*e.to = x
		}
		out.kinds[gk] = c
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// Annotation of an object that says how its health is told: Ignore, or a CEL expression that is true when it is well.
const (
	Annotation = "gitopsd.io/health"
	Ignore     = "ignore"
)

// CheckAnnotation tells a mistake in an object's annotation.
func CheckAnnotation(u *unstructured.Unstructured) error {
	value, found := u.GetAnnotations()[Annotation]
	if !found || value == Ignore {
		return nil
	}
	if _, err := compiledOnce(value); err != nil {
		return fmt.Errorf("annotation %s is neither %s nor a CEL expression: %w", Annotation, Ignore, err)
	}
	return nil
}

// Of judges a live object, nil when there is none, that was declared as desired.
func (r *Rules) Of(live, desired *unstructured.Unstructured) Verdict {
	declared := desired.GetAnnotations()[Annotation]
	if live == nil {
		if declared == Ignore {
			return Verdict{Healthy, ""}
		}
		return Of(nil)
	}
	said := cmp.Or(live.GetAnnotations()[Annotation], declared)
	if said == Ignore {
		return Verdict{Healthy, ""}
	}
	c, ruled := r.kinds[live.GroupVersionKind().GroupKind()]
	if said != "" {
		x, err := compiledOnce(said)
		if err != nil {
			return Verdict{Progressing, fmt.Sprintf("annotation %s: %v", Annotation, err)}
		}
		c, ruled = compiled{current: x}, true
	}
	if !ruled {
		return Of(live)
	}
	if live.GetDeletionTimestamp() != nil {
		return Verdict{Progressing, "it is being deleted"}
	}
	if observed, found, _ := unstructured.NestedInt64(live.Object, "status", "observedGeneration"); found && observed < live.GetGeneration() {
		return Verdict{Progressing, "its controller has not seen the present spec yet"}
	}
	return c.of(live)
}

// of asks in the order of Flux' healthCheckExprs: inProgress, failed, current.
func (c compiled) of(live *unstructured.Unstructured) Verdict {
	for _, q := range []struct {
		x    *expression
		want bool
		then Verdict
	}{
		{c.inProgress, true, Verdict{Progressing, "it is in progress: %s"}},
		{c.failed, true, Verdict{Degraded, "it failed: %s"}},
		{c.current, false, Verdict{Progressing, "not yet: %s"}},
	} {
		if q.x == nil {
			continue
		}
		is, err := q.x.holds(live)
		if err != nil {
			return Verdict{Progressing, err.Error()}
		}
		if is == q.want {
			q.then.Message = fmt.Sprintf(q.then.Message, q.x.source)
			return q.then
		}
	}
	return Verdict{Healthy, ""}
}

// expression is a CEL program that says yes or no to an object.
type expression struct {
	source  string
	program cel.Program
}

// parts of an object that expressions see by their names.
var parts = []string{"metadata", "spec", "status", "data"}

// env is Kubernetes' own language for expressions: functions, costs and limits of validating admission policies.
var env = sync.OnceValues(func() (*cel.Env, error) {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	whole := cel.MapType(cel.StringType, cel.DynType)
	variables := []cel.EnvOption{cel.Variable("apiVersion", cel.StringType), cel.Variable("kind", cel.StringType), cel.Variable("object", whole)}
	for _, p := range parts {
		variables = append(variables, cel.Variable(p, whole))
	}
	set, err := base.Extend(environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: variables})
	if err != nil {
		return nil, err
	}
	return set.Env(environment.StoredExpressions)
})

// longest is how long an expression may be. Longer ones are mistakes, and cost time to compile.
const longest = 4096

func compile(source string) (*expression, error) {
	if len(source) > longest {
		return nil, fmt.Errorf("the expression has %d characters; at most %d", len(source), longest)
	}
	e, err := env()
	if err != nil {
		return nil, fmt.Errorf("build the environment of CEL: %w", err)
	}
	ast, issues := e.Compile(source)
	if issues != nil && len(issues.Errors()) > 0 {
		first := issues.Errors()[0]
		return nil, fmt.Errorf("%q: line %d, column %d: %s", source, first.Location.Line(), first.Location.Column()+1, first.Message)
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.DynType {
		return nil, fmt.Errorf("%q gives %s; it has to be true or false", source, t)
	}
	program, err := e.Program(ast) // with the environment's limit of cost
	if err != nil {
		return nil, fmt.Errorf("%q: %w", source, err)
	}
	return &expression{source, program}, nil
}

// annotated keeps the programs of annotations, which are read at each look. It is emptied when it grows beyond what a cluster
// of sense has.
var annotated struct {
	sync.Mutex
	programs map[string]outcome
}

type outcome struct {
	x   *expression
	err error
}

const annotatedAtMost = 1000

func compiledOnce(source string) (*expression, error) {
	annotated.Lock()
	defer annotated.Unlock()
	o, found := annotated.programs[source]
	if !found {
		o.x, o.err = compile(source)
		if annotated.programs == nil || len(annotated.programs) >= annotatedAtMost {
			annotated.programs = map[string]outcome{}
		}
		annotated.programs[source] = o
	}
	return o.x, o.err
}

func (x *expression) holds(live *unstructured.Unstructured) (bool, error) {
	variables := map[string]any{"apiVersion": live.GetAPIVersion(), "kind": live.GetKind(), "object": live.Object}
	for _, p := range parts {
		variables[p], _ = live.Object[p].(map[string]any)
		if live.Object[p] == nil {
			variables[p] = map[string]any{}
		}
	}
	value, _, err := x.program.Eval(variables)
	if err != nil {
		return false, fmt.Errorf("%q cannot be said yet: %s", x.source, firstLine(err))
	}
	is, ok := value.Value().(bool)
	if !ok {
		return false, fmt.Errorf("%q gives %s; it has to be true or false", x.source, value.Type().TypeName())
	}
	return is, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

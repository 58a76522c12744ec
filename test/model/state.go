package model

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/ledger"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// State is what can be said of a history at one moment, in words that mean the same on every API: commits are numbers, and there are
// no UIDs, versions and times.
type State struct {
	Dead      bool `json:",omitempty"` // the engine: how far it had come depends on the moment, and is left out
	Phase     v1alpha1.Phase
	Reason    string
	Observed  int // commit; -1 is none
	Applied   int
	Intent    string `json:",omitempty"` // its phase and commit
	Rejected  int
	Inventory []string
	Objects   map[string]string // declared values of what is there, and whose it is
	Ends      []string          // what the ledger says of intents
}

func (s State) String() string {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		panic(err) // texts and numbers
	}
	return string(b)
}

// like says whether two states are the same in what the Application alone says.
func (s State) like(o State) bool {
	return s.Dead == o.Dead && s.Phase == o.Phase && s.Reason == o.Reason && s.Observed == o.Observed && s.Applied == o.Applied && s.Intent == o.Intent && s.Rejected == o.Rejected
}

// state reads everything that State tells; of what is not like want only the Application's part.
func (d *driver) state(ctx context.Context, entries []ledger.Entry, want *State) (State, error) {
	app, err := d.application(ctx)
	if err != nil {
		return State{}, err
	}
	st := app.Status
	s := State{Phase: st.Phase, Reason: st.Reason, Observed: d.repo.number(st.ObservedCommit), Applied: -1, Rejected: -1, Objects: map[string]string{}}
	if r := st.AppliedRevision; r != nil {
		s.Applied = d.repo.number(r.Commit)
	}
	if in := st.Intent; in != nil {
		s.Intent = fmt.Sprintf("%s of %d", in.Phase, d.repo.number(in.Revision.Commit))
	}
	if r := st.Rejected; r != nil {
		s.Rejected = d.repo.number(r.Revision.Commit)
	}
	for _, r := range st.Inventory {
		s.Inventory = append(s.Inventory, r.Kind+"/"+r.Name)
	}
	if d.engine.gate.isDead() {
		return State{Dead: true, Applied: s.Applied}, nil
	}
	if want != nil && !s.like(*want) {
		return s, nil
	}
	for kind, r := range resources {
		list, err := d.resource(r.plural).List(ctx, metav1.ListOptions{})
		if err != nil {
			return State{}, err
		}
		for _, u := range list.Items {
			if u.GetName() != "kube-root-ca.crt" {
				s.Objects[kind+"/"+u.GetName()] = tell(&u)
			}
		}
	}
	s.Ends = d.ends(entries)
	return s, nil
}

// tell says what is declared of an object, and who declares it.
func tell(u *unstructured.Unstructured) string {
	var v any
	switch u.GetKind() {
	case "ConfigMap", "Secret":
		v = u.Object["data"]
	case "Service":
		v, _, _ = unstructured.NestedMap(u.Object, "spec", "selector")
	case "Deployment":
		list, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		for _, c := range list {
			v = c.(map[string]any)["image"]
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was JSON
	}
	text := string(b)
	if u.GetLabels()[v1alpha1.LabelApplication] != "" {
		text += " ours"
	}
	if u.GetLabels()["added"] != "" {
		text += " added"
	}
	if u.GetDeletionTimestamp() != nil {
		text += " terminating"
	}
	var managers []string
	for _, m := range u.GetManagedFields() {
		if m.Subresource == "" && m.Manager != "kube-controller-manager" && m.Manager != epochManager && !slices.Contains(managers, m.Manager) {
			managers = append(managers, m.Manager)
		}
	}
	slices.Sort(managers)
	return text + " by " + strings.Join(managers, ",")
}

// ends are the ends of intents in the ledger, in their order.
func (d *driver) ends(entries []ledger.Entry) []string {
	var out []string
	for _, e := range entries {
		if (e.Kind == ledger.Sync || e.Kind == ledger.Rollback) && e.App == d.namespace+"/"+application {
			out = append(out, fmt.Sprintf("%s %d to %d", e.Outcome, d.repo.number(e.From), d.repo.number(e.To)))
		}
	}
	return out
}

package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/test/fakeapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// monitor checks the invariants of docs/design/model.md: at each change while it happens, and of all when the engine is at rest.
type monitor struct {
	w        *world
	contents pipeline.Contents
	at       string // the moment
	problems []string
	quiet    bool // nothing is to be written any more

	made     map[string]bool           // UIDs of objects that an engine created
	declared map[string]*fieldpath.Set // by UID: the fields that the engine ever declared
	foreign  map[string]string         // the values of objects that are not ours, as somebody left them
	late     map[string]bool           // UIDs of objects that an engine created when another had followed it
	epochs   map[string]int64          // of engines
	byHand   bool                      // somebody changed a declared field, and it may stay
	cache    map[string]any
}

func newMonitor(w *world, c pipeline.Contents) *monitor {
	return &monitor{w: w, contents: c, made: map[string]bool{}, late: map[string]bool{}, declared: map[string]*fieldpath.Set{}, foreign: map[string]string{theirs: "theirs"}, epochs: map[string]int64{}, cache: map[string]any{}}
}

func (m *monitor) clone(w *world, c pipeline.Contents) *monitor {
	n := *m
	n.w, n.contents, n.problems = w, c, nil
	n.made, n.late, n.declared, n.foreign, n.epochs, n.cache = maps.Clone(m.made), maps.Clone(m.late), maps.Clone(m.declared), maps.Clone(m.foreign), maps.Clone(m.epochs), map[string]any{}
	return &n
}

func (m *monitor) problem(format string, args ...any) {
	text := m.at + ": " + fmt.Sprintf(format, args...)
	m.w.trace.add("PROBLEM %s", text)
	m.problems = append(m.problems, text)
}

// hand notes what somebody is about to do by hand.
func (m *monitor) hand(s Step) {
	switch s.Do {
	case Change, Delete:
		m.byHand = true
		if s.Object == theirs {
			delete(m.foreign, theirs) // whatever it becomes is theirs
		}
	}
}

// observe sees one change as it happens.
func (m *monitor) observe(c fakeapi.Change) {
	old, now := parsed(c.Old), parsed(c.New)
	id := c.Request.Header.Get(engineHeader)
	if c.Request.Kind == "Application" || c.Request.Kind == "Namespace" || c.Request.Kind == "Lease" {
		if id != "" && m.quiet {
			m.problem("engine %s: %s of the Application, when nothing happens", id, c.Request.Method)
		}
		m.adopted()
		return
	}
	if now != nil {
		m.note(now)
	}
	if id == "" {
		return
	}
	if old == nil {
		m.made[string(now.GetUID())] = true
	}
	w := write{c.Request, old, now, m.app()}
	if m.stale(id, w) {
		return
	}
	if m.quiet {
		m.problem("%s, when nothing happens", w)
	}
	if c.Request.Method == "DELETE" {
		m.deletes(w)
	} else {
		m.writes(w)
	}
}

// stale checks a write of an engine that another one has followed: it changes nothing that an open intent of the other is about. What it
// makes is found and put right, or not: the checks at rest tell.
func (m *monitor) stale(id string, w write) bool {
	if id == strconv.Itoa(m.w.engines) || m.at == "the end" {
		return false
	}
	if in := w.app.Status.Intent; in != nil && w.old != nil && in.Epoch > m.epochs[id] {
		m.problem("%s by an engine whose turn is over", w)
	}
	if w.old == nil {
		m.late[string(w.now.GetUID())] = true
	}
	return true
}

// write is one write of an engine, and the Application as it stood in the API then.
type write struct {
	request  fakeapi.Request
	old, now *unstructured.Unstructured
	app      *v1alpha1.Application
}

func (w write) String() string {
	phase := "no intent"
	if w.app.Status.Intent != nil {
		phase = w.app.Status.Intent.Phase
	}
	return fmt.Sprintf("engine %s: %s of %s %s (%s, %s)", w.request.Header.Get(engineHeader), w.request.Method, w.request.Kind, w.request.Name, w.app.Status.Phase, phase)
}

func (w write) ref() diff.Ref {
	if w.old != nil {
		return diff.RefOf(w.old)
	}
	return diff.RefOf(w.now)
}

// note keeps which fields the engine declares of an object.
func (m *monitor) note(u *unstructured.Unstructured) {
	if set := owns(u); set != nil {
		uid := string(u.GetUID())
		if was := m.declared[uid]; was != nil {
			set = set.Union(was)
		}
		m.declared[uid] = set
	}
}

// deletes checks a deletion: it names the UID, the object is ours, and the phase is one in which it may be deleted.
func (m *monitor) deletes(w write) {
	var o metav1.DeleteOptions
	if err := json.Unmarshal(w.request.Body, &o); err != nil || o.Preconditions == nil || o.Preconditions.UID == nil {
		m.problem("%s names no UID", w)
		return
	}
	if w.old.GetLabels()[v1alpha1.LabelApplication] == "" {
		m.problem("%s is not ours", w)
	}
	in, st := w.app.Status.Intent, w.app.Status
	recorded := slices.ContainsFunc(st.Inventory, func(r v1alpha1.ObjectReference) bool {
		return r.Kind == w.old.GetKind() && r.Name == w.old.GetName() && (r.UID == string(w.old.GetUID()) || r.UID == "" && m.made[string(w.old.GetUID())])
	})
	switch {
	case m.late[string(w.old.GetUID())]: // it came into being by a request that was late
	case m.made[string(w.old.GetUID())] && apply.MakerOf(w.old).Application == string(w.app.UID) && !m.wanted(in, w.ref()): // it says itself that it is ours
	case !recorded:
		m.problem("%s is not in the inventory with this UID", w)
	case in == nil:
		if st.AppliedRevision == nil || m.has(st.AppliedRevision.Content, w.ref()) {
			m.problem("%s is part of the applied revision", w)
		}
	case in.Phase == string(intent.Pruning):
		if m.has(in.Revision.Content, w.ref()) {
			m.problem("%s is part of the revision", w)
		}
	case in.Phase == string(intent.Undoing) || in.Phase == string(intent.Incomplete):
		image, found := m.image(in.Images, w.ref())
		if uid := string(w.old.GetUID()); !found || image.Object != nil && image.Held.UID == uid || !m.made[uid] {
			m.problem("%s was not made by this intent", w)
		}
	default:
		m.problem("%s before the revision has arrived", w)
	}
}

// wanted says whether an object is part of what is applied, or is about to be.
func (m *monitor) wanted(in *v1alpha1.Intent, r diff.Ref) bool {
	st := m.app().Status
	undone := in != nil && (in.Phase == string(intent.Undoing) || in.Phase == string(intent.Incomplete))
	return in != nil && !undone && m.has(in.Revision.Content, r) || (in == nil || undone) && st.AppliedRevision != nil && m.has(st.AppliedRevision.Content, r)
}

// writes checks any other write: an intent or the applied revision asks for it.
func (m *monitor) writes(w write) {
	in, st := w.app.Status.Intent, w.app.Status
	switch {
	case w.request.Query.Get("fieldManager") == epochManager:
		m.seizes(in, w)
	case in == nil:
		if st.AppliedRevision == nil || !m.asksFor(st.AppliedRevision.Content, w) {
			m.problem("%s without an intent", w)
		}
	case in.Phase == string(intent.Pruning):
		if image, found := m.image(in.Images, w.ref()); !found || image.Object == nil || m.has(in.Revision.Content, w.ref()) {
			m.problem("%s when there is only deleting left", w)
		}
		m.undoes(in, w) // of what an intent that was superseded took over
	case in.Phase == string(intent.Undoing) || in.Phase == string(intent.Incomplete):
		if in.Phase == string(intent.Incomplete) && m.asksFor(in.Revision.Content, w) {
			return // a person asked for another try
		}
		m.undoes(in, w)
	case !m.asksFor(in.Revision.Content, w):
		m.problem("%s is not what the intent says", w)
	}
}

// epochManager puts an epoch on objects: docs/design/atomicity.md.
const epochManager = "gitopsd-epoch"

var (
	epochPath = fieldpath.MakePathOrDie("metadata", "annotations", apply.EpochAnnotation)
	madePath  = fieldpath.MakePathOrDie("metadata", "annotations", apply.MadeAnnotation)
)

// seizes checks that an engine takes over what an open intent is about, and writes nothing but its epoch.
func (m *monitor) seizes(in *v1alpha1.Intent, w write) {
	if in == nil {
		m.problem("%s is taken over without an intent", w)
		return
	}
	for _, path := range changedPaths(w.old, w.now) {
		if !path.Equals(epochPath) {
			m.problem("%s changes %s, which is no epoch", w, path)
		}
	}
}

// undoes checks a write of an undo: of an object that was touched, and of no field that we never declared.
func (m *monitor) undoes(in *v1alpha1.Intent, w write) {
	if _, found := m.image(in.Images, w.ref()); !found {
		m.problem("%s was not touched", w)
	}
	if w.old == nil || w.now.GetKind() == "Secret" { // who owns what stringData sets is another matter
		return
	}
	declared := m.declared[string(w.old.GetUID())]
	if declared == nil {
		m.problem("%s was never ours", w)
		return
	}
	for _, path := range changedPaths(w.old, w.now) {
		if !declared.Has(path) && !declared.Members.Has(path[len(path)-1]) && !below(declared, path) {
			m.problem("%s changes %s, which we never declared", w, path)
		}
	}
}

// below says whether a path lies within something declared, or holds it.
func below(set *fieldpath.Set, path fieldpath.Path) bool {
	for n := range path {
		if set.Has(path[:n+1]) && set.WithPrefix(path[n]).Empty() {
			return true
		}
	}
	for _, e := range path {
		set = set.WithPrefix(e)
	}
	return !set.Empty()
}

// changedPaths are the leaves that differ, without what the API itself keeps and what defaults follow.
func changedPaths(old, now *unstructured.Unstructured) []fieldpath.Path {
	a, errA := typed.DeducedParseableType.FromUnstructured(diff.Declared(old))
	b, errB := typed.DeducedParseableType.FromUnstructured(diff.Declared(now))
	if errA != nil || errB != nil {
		return nil
	}
	c, err := a.Compare(b)
	if err != nil {
		return nil
	}
	var out []fieldpath.Path
	c.Added.Union(c.Modified).Union(c.Removed).Leaves().Iterate(func(p fieldpath.Path) { out = append(out, slices.Clone(p)) })
	return out
}

// asksFor says whether a content has an object as it has just become.
func (m *monitor) asksFor(content string, w write) bool {
	for _, o := range m.objects(content) {
		if o.Ref() == w.ref() {
			return diff.Holds(w.now, expected(o))
		}
	}
	return false
}

func (m *monitor) has(content string, r diff.Ref) bool {
	return slices.ContainsFunc(m.objects(content), func(o apply.Object) bool { return o.Ref() == r })
}

// expected is a declared object as the API shows it.
func expected(o apply.Object) *unstructured.Unstructured {
	u := o.DeepCopy()
	if text, found, _ := unstructured.NestedString(u.Object, "stringData", "k"); found {
		delete(u.Object, "stringData")
		u.Object["data"] = map[string]any{"k": base64Of(text)}
	}
	return u
}

// atRest checks what holds when the engine has nothing left to do but to wait.
func (m *monitor) atRest(p Policy) {
	m.w.server.Look(func() {
		app := m.app()
		st := app.Status
		if st.Intent != nil || st.Phase != v1alpha1.Applied && st.Phase != v1alpha1.RolledBack || p.NoHeal && m.byHand {
			return
		}
		var objects []apply.Object
		if st.AppliedRevision != nil {
			objects = m.objects(st.AppliedRevision.Content)
		}
		m.isRevision(st, objects)
		if !p.NoPrune {
			m.noOrphans(st, objects)
		}
		m.foreignAsBefore()
	})
}

// isRevision checks that every object is there and that we declare of it what the revision does, and nothing else.
func (m *monitor) isRevision(st v1alpha1.ApplicationStatus, objects []apply.Object) {
	for _, o := range objects {
		live := parsed(m.w.server.Object(o.GetKind(), o.GetNamespace(), o.GetName()))
		switch {
		case live == nil:
			m.problem("%s, and %s is not there", st.Phase, o.Ref())
		case live.GetDeletionTimestamp() != nil:
		case !diff.Holds(live, expected(o)):
			m.problem("%s, and %s is not as declared: %s", st.Phase, o.Ref(), tell(live))
		case o.GetKind() != "Secret": // what stringData owns is another matter
			own, want := owns(live), fieldsOf(o)
			if own != nil {
				own = own.Difference(fieldpath.NewSet(madePath)) // the engine's own mark
			}
			if own == nil || !own.Difference(want).Empty() || !want.Difference(own).Empty() {
				m.problem("%s, and of %s we declare\n%v, not\n%v", st.Phase, o.Ref(), own, want)
			}
		}
	}
}

// noOrphans checks that what carries our label is in the revision, or is known and on its way out.
func (m *monitor) noOrphans(st v1alpha1.ApplicationStatus, objects []apply.Object) {
	for _, u := range m.all() {
		if u.GetLabels()[v1alpha1.LabelApplication] == "" || u.GetDeletionTimestamp() != nil {
			continue
		}
		if !slices.ContainsFunc(objects, func(o apply.Object) bool { return o.Ref() == diff.RefOf(u) }) {
			m.problem("%s, and %s %s is left (%s)", st.Phase, u.GetKind(), u.GetName(), tell(u))
		}
	}
}

// adopted notes which objects of others have become ours for good: the applied revision has them.
func (m *monitor) adopted() {
	r := m.app().Status.AppliedRevision
	if r == nil || len(m.foreign) == 0 {
		return
	}
	for key := range m.foreign {
		if u := objectOf(key, ""); m.has(r.Content, diff.Ref{Kind: u.GetKind(), Namespace: m.w.namespace, Name: u.GetName()}) {
			delete(m.foreign, key)
		}
	}
}

// foreignAsBefore checks that objects of others that we do not hold have the values that they had.
func (m *monitor) foreignAsBefore() {
	for key, value := range m.foreign {
		kind, name, _ := strings.Cut(key, "/")
		live := parsed(m.w.server.Object(resources[kind].kind, m.w.namespace, name))
		if live == nil || owns(live) != nil || !diff.Holds(live, objectOf(key, value)) {
			m.problem("%s of somebody else is not as it was: %v", key, live)
		}
	}
}

// arrived checks that the last good commit has come.
func (m *monitor) arrived(p Policy) {
	var st v1alpha1.ApplicationStatus
	m.w.server.Look(func() { st = m.app().Status })
	newest := m.w.repo.newest().name
	if st.Phase != v1alpha1.Applied || st.AppliedRevision == nil || st.AppliedRevision.Commit != newest || st.Intent != nil {
		m.problem("the last good commit (%.8s) has not come: %s, %s: %s; intent %+v", newest, st.Phase, st.Reason, st.Message, st.Intent)
		return
	}
	m.byHand = m.byHand && p.NoHeal
	m.atRest(p)
}

func (m *monitor) app() *v1alpha1.Application {
	app := &v1alpha1.Application{}
	if raw := m.w.server.Object("Application", m.w.namespace, application); raw != nil {
		if err := json.Unmarshal(raw, app); err != nil {
			m.problem("read the Application: %v", err)
		}
	}
	return app
}

func (m *monitor) all() []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, raw := range m.w.server.Objects(m.w.namespace) {
		if u := parsed(raw); u.GetKind() != "Application" {
			out = append(out, u)
		}
	}
	return out
}

// objects are those of a kept revision.
func (m *monitor) objects(name string) []apply.Object {
	return cached(m, name, apply.Decode)
}

func (m *monitor) image(name string, r diff.Ref) (apply.Image, bool) {
	for _, i := range cached(m, name, apply.DecodeImages) {
		if i.Held.Ref == r {
			return i, true
		}
	}
	return apply.Image{}, false
}

func cached[T any](m *monitor, name string, decode func([]byte) ([]T, error)) []T {
	if v, found := m.cache[name]; found {
		return v.([]T)
	}
	content, err := m.contents.Get(m.w.namespace+"."+application, name)
	if err != nil {
		m.problem("content %.12s, which the status names: %v", name, err)
		return nil
	}
	v, err := decode(content)
	if err != nil {
		m.problem("content %.12s: %v", name, err)
	}
	m.cache[name] = v
	return v
}

func parsed(raw []byte) *unstructured.Unstructured {
	if raw == nil {
		return nil
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		panic(err) // the API made it
	}
	return u
}

// owns are the fields that the engine declares of an object; nil when there are none.
func owns(u *unstructured.Unstructured) *fieldpath.Set {
	for _, f := range u.GetManagedFields() {
		if f.Manager == v1alpha1.FieldManager && f.Operation == metav1.ManagedFieldsOperationApply && f.FieldsV1 != nil {
			set := &fieldpath.Set{}
			if err := set.FromJSON(f.FieldsV1.GetRawReader()); err != nil {
				panic(err) // the API made it
			}
			return set
		}
	}
	return nil
}

// fieldsOf are the fields that a declared object declares.
func fieldsOf(o apply.Object) *fieldpath.Set {
	return fakeapi.Fields(o.Unstructured)
}

// Package overview prints the state of an instance for people: machines, Applications, and what is wrong with them, with
// the place and the next step. In go objects of the API and the time, out comes text of at most 80 columns where names
// allow it. It is pure.
package overview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// All is `gitopsd status`: machines in a line, Applications in a table, and below it what is wrong.
func All(apps []v1alpha1.Application, nodes []corev1.Node, pods []corev1.Pod, wide bool, now time.Time, s Style) string {
	var b strings.Builder
	b.WriteString(printNodes(nodes, pods, s))
	if len(apps) == 0 {
		return b.String() + "no Application yet; make one with: gitopsd up --repo URL\n"
	}
	slices.SortFunc(apps, func(a, b v1alpha1.Application) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	width := 11
	for _, a := range apps {
		width = max(width, len(a.Namespace)+1+len(a.Name))
	}
	if !wide {
		width = min(width, 34)
	}
	fmt.Fprintf(&b, "\n%s\n", s.paint(bold, strings.TrimRight(fmt.Sprintf("%-*s  %-10s  %-11s  %-9s  %s", width, "APPLICATION", "PHASE", "HEALTH", "COMMIT", "SYNCED"), " ")))
	for i := range apps {
		b.WriteString(printRow(&apps[i], width, wide, now, s))
	}
	for i := range apps {
		b.WriteString(printTrouble(&apps[i], now, s))
	}
	return b.String()
}

func printNodes(nodes []corev1.Node, pods []corev1.Pod, s Style) string {
	ready, running := 0, 0
	var trouble []string
	for _, n := range nodes {
		c := nodeReady(n)
		if c != nil && c.Status == corev1.ConditionTrue {
			ready++
		} else if c != nil {
			trouble = append(trouble, wrap("node "+n.Name+" is not ready: "+cmp.Or(c.Message, c.Reason), "  ", 78))
		}
	}
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning {
			running++
		}
	}
	line := fmt.Sprintf("nodes: %d of %d ready   pods: %d of %d running", ready, len(nodes), running, len(pods))
	if ready < len(nodes) || len(nodes) == 0 {
		line = s.paint(yellow, line)
	}
	return line + "\n" + s.paint(yellow, strings.Join(trouble, ""))
}

func nodeReady(n corev1.Node) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func printRow(a *v1alpha1.Application, width int, wide bool, now time.Time, s Style) string {
	st := a.Status
	commit, when := "-", "-"
	if st.AppliedRevision != nil {
		commit = Short(st.AppliedRevision.Commit)
		when = ago(st.AppliedRevision.Time, now)
	}
	if st.ObservedCommit != "" && st.AppliedRevision != nil && st.ObservedCommit != st.AppliedRevision.Commit {
		commit = Short(st.AppliedRevision.Commit) + "*"
	}
	phase, health := cmp.Or(string(st.Phase), string(v1alpha1.Pending)), cmp.Or(string(st.Health), string(v1alpha1.Unknown))
	row := fmt.Sprintf("%-*s  %s  %s  %-9s  %s", width, Cut(a.Namespace+"/"+a.Name, width), s.paint(colour(phase), fmt.Sprintf("%-10s", phase)),
		s.paint(colour(health), fmt.Sprintf("%-11s", health)), commit, when)
	if wide {
		row += "  " + a.Spec.Source.Repo + " " + a.Spec.Source.Path
	}
	return strings.TrimRight(row, " ") + "\n"
}

func colour(word string) string {
	switch word {
	case string(v1alpha1.Applied), string(v1alpha1.Healthy):
		return green
	case string(v1alpha1.RolledBack), string(v1alpha1.Held), string(v1alpha1.Incomplete), string(v1alpha1.Failed), string(v1alpha1.Degraded), string(v1alpha1.Missing):
		return red
	}
	return yellow
}

// printTrouble says what is wrong with an Application, and what to do.
func printTrouble(a *v1alpha1.Application, now time.Time, s Style) string {
	st := a.Status
	var b strings.Builder
	head := func(what string) { fmt.Fprintf(&b, "\n%s  %s\n", s.paint(bold, a.Namespace+"/"+a.Name), what) }
	switch st.Phase {
	case v1alpha1.RolledBack, v1alpha1.Held, v1alpha1.Incomplete:
		head(s.paint(red, string(st.Phase)+": "+st.Reason) + at(st))
		b.WriteString(wrap(st.Message, "  ", 79))
		b.WriteString(wrap(nextStep(st), "  ", 79))
	case v1alpha1.Failed:
		head(s.paint(red, st.Reason) + at(st))
		b.WriteString(wrap(st.Message, "  ", 79))
		b.WriteString(wrap(nextStep(st), "  ", 79))
	case v1alpha1.Waiting, v1alpha1.Verifying, v1alpha1.Suspended:
		head(s.paint(yellow, st.Reason))
		b.WriteString(wrap(st.Message, "  ", 79))
	}
	if st.Source != nil && st.Reason != "SourceUnavailable" {
		head(s.paint(yellow, "the repository cannot be read") + " since " + st.Source.Since.Local().Format("15:04:05") + " (" + ago(st.Source.Since, now) + ")")
		b.WriteString(wrap(st.Source.Message, "  ", 79))
	}
	return b.String()
}

func at(st v1alpha1.ApplicationStatus) string {
	if st.ObservedCommit == "" {
		return ""
	}
	return " at commit " + Short(st.ObservedCommit)
}

func nextStep(st v1alpha1.ApplicationStatus) string {
	switch {
	case st.Phase == v1alpha1.RolledBack && st.AppliedRevision == nil:
		return "nothing was applied before; next: mend it and push, or try it again: gitopsd sync --retry"
	case st.Phase == v1alpha1.RolledBack:
		return "commit " + Short(st.AppliedRevision.Commit) + " is back; next: mend it and push, or try it again: gitopsd sync --retry"
	case st.Phase == v1alpha1.Held:
		return "it stays as it is (spec.sync.onFailure: Hold); next: mend it and push, or try it again: gitopsd sync --retry"
	case st.Phase == v1alpha1.Incomplete:
		return "the undo is tried again by itself; next: look at the objects that are named"
	case st.Reason == "NotHealthyInTime":
		return "next: mend it and push, or git revert; gitopsd takes the next commit by itself"
	case st.AppliedRevision == nil:
		return "next: mend it and push; nothing was applied yet"
	case st.AppliedRevision.Commit != st.ObservedCommit:
		return "commit " + Short(st.AppliedRevision.Commit) + " still runs; next: mend it and push, gitopsd takes the next commit by itself"
	}
	return ""
}

// One is `gitopsd status APP`.
func One(a *v1alpha1.Application, now time.Time, s Style) string {
	st := a.Status
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-9s %s\n", name, value)
		}
	}
	row("name", s.paint(bold, a.Namespace+"/"+a.Name))
	row("source", strings.TrimSpace(a.Spec.Source.Repo+" "+a.Spec.Source.Path))
	row("chart", a.Spec.Source.Chart)
	row("ref", refName(a.Spec.Source))
	row("version", st.ObservedVersion)
	phase, health := cmp.Or(string(st.Phase), string(v1alpha1.Pending)), cmp.Or(string(st.Health), string(v1alpha1.Unknown))
	row("phase", s.paint(colour(phase), phase))
	row("health", s.paint(colour(health), health))
	if r := st.AppliedRevision; r != nil {
		row("applied", fmt.Sprintf("%s, %s", r.Commit, ago(r.Time, now)))
	}
	if st.AppliedRevision == nil || st.AppliedRevision.Commit != st.ObservedCommit {
		row("seen", st.ObservedCommit)
	}
	if g := st.Signature; g != nil {
		row("signed", "by "+g.Signer)
	}
	if l := st.LastSync; l != nil {
		row("last sync", fmt.Sprintf("%d created, %d updated, %d pruned, %d unchanged (%s)", l.Created, l.Updated, l.Pruned, l.Unchanged, l.Cause))
		line := "written in " + l.Took.Duration.String()
		if l.HealthyAfter != nil {
			line += ", healthy after " + l.HealthyAfter.Duration.String()
		}
		row("", line)
	}
	b.WriteString(printTrouble(a, now, s))
	if len(st.Inventory) > 0 {
		fmt.Fprintf(&b, "\n%s\n", s.paint(bold, "OBJECTS"))
		for _, o := range st.Inventory {
			fmt.Fprintf(&b, "  %s\n", objectName(o))
		}
	}
	if len(st.Drift) > 0 {
		fmt.Fprintf(&b, "\n%s\n", s.paint(bold, "SET BY OTHERS"))
		for _, d := range st.Drift {
			whose := "theirs, left alone"
			if d.Ours {
				whose = "ours, not healed: spec.sync.heal is false"
			}
			fmt.Fprintf(&b, "%s", wrap(fmt.Sprintf("%s: %s by %s (%s)", objectName(d.Object), strings.Join(d.Fields, ", "), cmp.Or(d.Manager, "somebody"), whose), "  ", 79))
		}
	}
	return b.String()
}

func objectName(o v1alpha1.ObjectReference) string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

func refName(s v1alpha1.Source) string {
	absent := "default branch"
	switch {
	case s.Chart != "":
		absent = "highest version"
	case strings.HasPrefix(s.Repo, "oci"):
		absent = "latest"
	}
	r := s.Ref
	return cmp.Or(r.Branch, r.Tag, r.Semver, r.Commit, r.Digest, absent)
}

func ago(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(now.Sub(t.Time)) + " ago"
}

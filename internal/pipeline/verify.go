package pipeline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/health"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	defaultTimeout = 5 * time.Minute
	// toldAtMost is how many unhealthy objects a message names.
	toldAtMost = 3
)

// health looks at every object and puts what it found into the status. Without a proof the watches alone are asked.
func (t *turn) health(ctx context.Context, p *apply.Proof, objects []apply.Object) health.Status {
	st := &t.app.Status
	held := heldOf(st.Inventory)
	worst, messages := health.Healthy, []string{}
	for _, o := range objects {
		live := t.live.get(o)
		if p != nil {
			live = newest(live, p.Live(o.Ref()))
		}
		v := t.judge(ctx, live, o)
		if how := apply.Ended(held, o); how != "" && v.Status == health.Missing {
			v = health.Ended(how)
		}
		worst = health.Worst(worst, v.Status)
		if v.Status != health.Healthy {
			messages = append(messages, fmt.Sprintf("%s: %s", o.Ref(), v.Message))
		}
	}
	if more := len(messages) - toldAtMost; more > 0 {
		messages = append(messages[:toldAtMost], fmt.Sprintf("and %d more", more))
	}
	st.Health, st.HealthMessage = v1alpha1.Health(worst), strings.Join(messages, "; ")
	if s := st.LastSync; worst == health.Healthy && s != nil && s.HealthyAfter == nil {
		started := t.w.started
		if started.IsZero() {
			started = s.Started.Time // by a daemon before this one; to the second
		}
		s.HealthyAfter = &metav1.Duration{Duration: time.Since(started).Round(time.Millisecond)}
	}
	return worst
}

// judgeHealth says whether the applied revision is well. good is what is reported when it is.
func (t *turn) judgeHealth(ctx context.Context, p *apply.Proof, objects []apply.Object, good outcome) outcome {
	if t.health(ctx, p, objects) == health.Healthy {
		if good.class == done && t.live.blind(objects) {
			good.class = waiting
		}
		return good
	}
	if late(t.app) {
		return outcome{waiting, v1alpha1.Failed, reasonUnhealthy, t.app.Status.HealthMessage}
	}
	return outcome{soon, v1alpha1.Verifying, reasonVerifying, t.app.Status.HealthMessage}
}

// late says that a workload which fell ill had its time to mend.
func late(app *v1alpha1.Application) bool {
	since := time.Time{}
	if s := app.Status.LastSync; s != nil {
		since = s.Finished.Time
	}
	for _, c := range app.Status.Conditions {
		if c.Type != "Healthy" {
			continue
		}
		if c.Status == metav1.ConditionTrue {
			return false // it fell ill just now
		}
		if c.LastTransitionTime.After(since) {
			since = c.LastTransitionTime.Time
		}
	}
	return time.Since(since) > timeoutOf(app)
}

func timeoutOf(app *v1alpha1.Application) time.Duration {
	if d := app.Spec.Sync.Timeout; d != nil && d.Duration > 0 {
		return d.Duration
	}
	return defaultTimeout
}

// judge is the health of one object, with the reason that its pods give.
func (t *turn) judge(ctx context.Context, live *unstructured.Unstructured, o apply.Object) health.Verdict {
	v := t.w.declared.health.Of(live, o.Unstructured)
	if v.Status == health.Healthy || t.awaitsConsumer(ctx, live) {
		v.Status = health.Healthy
		return v
	}
	selector, ok := health.Selector(live)
	if !ok || time.Since(t.w.started) < lasting { // written just now: nobody has had time to fall ill
		return v
	}
	opts := metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String(), ResourceVersion: "0"}
	pods, err := t.kube.CoreV1().Pods(o.GetNamespace()).List(ctx, opts)
	if user := userOf(t.app); user != "" && apierrors.IsForbidden(err) {
		if kube, asErr := t.kubeAs(user); asErr == nil {
			pods, err = kube.CoreV1().Pods(o.GetNamespace()).List(ctx, opts)
		}
	}
	if err != nil {
		return v // the verdict stands; only its reason is unknown
	}
	if why, stuck := health.Explain(ownedOnly(pods.Items)); why != "" {
		v.Message = why
		if stuck {
			v.Status = health.Degraded
		}
	}
	return v
}

// ownedOnly drops pods that merely carry the same labels.
func ownedOnly(pods []corev1.Pod) []corev1.Pod {
	var out []corev1.Pod
	for _, p := range pods {
		if metav1.GetControllerOf(&p) != nil {
			out = append(out, p)
		}
	}
	return out
}

// newest of two states of an object: a watch may lag behind what was read or written just now.
func newest(watched, written *unstructured.Unstructured) *unstructured.Unstructured {
	if watched == nil || written == nil {
		return written
	}
	if apply.Newer(written, watched) {
		return written
	}
	return watched
}

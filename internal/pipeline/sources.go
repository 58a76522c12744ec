package pipeline

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const defaultInterval = 30 * time.Second

// subscription is what an Application follows at present.
type subscription struct {
	spec     source.Spec
	interval time.Duration
	cancel   func()
}

func (s *subscription) end() {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}

// subscribe follows what the Application names, once; a changed spec replaces the subscription.
func (e *Engine) subscribe(app *v1alpha1.Application, w *work, spec source.Spec) error {
	interval := defaultInterval
	if i := app.Spec.Source.Interval; i != nil {
		if i.Duration < time.Second {
			return fmt.Errorf("spec.source.interval %s is too short; at least 1s", i.Duration)
		}
		interval = i.Duration
	}
	s := &w.subscription
	if s.cancel != nil && s.interval == interval && reflect.DeepEqual(s.spec, spec) {
		return nil
	}
	s.end()
	w.hear(source.Event{})
	key := keyOf(app)
	cancel, err := e.cfg.Sources.Subscribe(spec, interval, func(ev source.Event) {
		before := w.hear(ev)
		e.cfg.Metrics.source(key, ev.Err)
		if before.Err == nil && ev.Err == nil && e.readers.passOver(key, before.Snapshot, ev.Snapshot) {
			e.wishes.saw(key, ev.Snapshot.Commit)
			e.wakeDependents(key)
			return
		}
		e.queue.Add(key)
	})
	if err != nil {
		return err
	}
	*s = subscription{spec, interval, cancel}
	return nil
}

// refuseFiles keeps Applications of tenants away from the folders of this machine.
func (e *Engine) refuseFiles(app *v1alpha1.Application) error {
	return RefuseFiles(e.cfg.AllowFiles || app.Namespace == e.cfg.Namespace, app.Spec.Source.Repo, e.cfg.Namespace)
}

// RefuseFiles is the error for a repository that is a folder of this machine, unless that is allowed. Own is the engine's namespace.
func RefuseFiles(allowed bool, repo, own string) error {
	if allowed || !source.Local(repo) {
		return nil
	}
	return fmt.Errorf("repo %s is a folder of the machine that gitopsd runs on, which Applications of namespace %s alone may read; "+
		"name a repository by https or ssh, or start gitopsd with --allow-file-sources", repo, own)
}

// hear notes an event and returns the one before.
func (w *work) hear(ev source.Event) (before source.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.heard = w.heard, ev
	return before
}

func (w *work) event() source.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heard
}

// sourceSpec is what to read, with the credentials that the Application names.
func (e *Engine) sourceSpec(ctx context.Context, app *v1alpha1.Application) (source.Spec, error) {
	s := app.Spec.Source
	spec := source.Spec{URL: s.Repo, Chart: s.Chart, Submodules: s.Submodules,
		Ref: source.Ref{Branch: s.Ref.Branch, Tag: s.Ref.Tag, Semver: s.Ref.Semver, Commit: s.Ref.Commit, Digest: s.Ref.Digest}}
	if s.SecretRef != nil {
		data, err := e.secretOf(ctx, app, "spec.source.secretRef", s.SecretRef.Name)
		if err != nil {
			return spec, err
		}
		if spec.Credentials, err = source.CredentialsFromSecret(data); err != nil {
			return spec, fmt.Errorf("Secret %s/%s: %w", app.Namespace, s.SecretRef.Name, err)
		}
	}
	if s.ProxySecretRef != nil {
		data, err := e.secretOf(ctx, app, "spec.source.proxySecretRef", s.ProxySecretRef.Name)
		if err != nil {
			return spec, err
		}
		if spec.Credentials == nil {
			spec.Credentials = &source.Credentials{}
		}
		if spec.Credentials.Proxy, err = source.ProxyFromSecret(data); err != nil {
			return spec, fmt.Errorf("Secret %s/%s: %w", app.Namespace, s.ProxySecretRef.Name, err)
		}
	}
	return spec, nil
}

// secretOf reads a Secret of the Application's namespace that a field of its spec names: by the engine's rights, or by
// those of the Application when the engine has few.
func (e *Engine) secretOf(ctx context.Context, app *v1alpha1.Application, field, name string) (map[string][]byte, error) {
	secret, err := e.kube.CoreV1().Secrets(app.Namespace).Get(ctx, name, metav1.GetOptions{})
	if user := userOf(app); user != "" && apierrors.IsForbidden(err) {
		kube, asErr := e.kubeAs(user)
		if asErr != nil {
			return nil, asErr
		}
		secret, err = kube.CoreV1().Secrets(app.Namespace).Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%s: there is no Secret %s in namespace %s; create it", field, name, app.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", app.Namespace, name, err)
	}
	return secret.Data, nil
}

// honourSyncRequest asks the repository and looks at every object anew when `gitopsd sync` asked for it. The question
// runs beside the pipeline; its answer brings the Application up again.
func (e *Engine) honourSyncRequest(ctx context.Context, app *v1alpha1.Application, w *work, spec source.Spec) {
	request := app.Annotations[v1alpha1.AnnotationSync]
	if request == "" || request == app.Status.HandledSyncRequest || !w.begin(request) {
		return
	}
	e.act(app, "sync/"+request, "SyncRequested", askedBy(app), consents(app))
	w.known.Forget()
	w.rendered = rendered{}
	if app.Annotations[v1alpha1.AnnotationRetry] == request {
		e.tryAgain(app, request)
	}
	key := keyOf(app)
	e.asks.Go(func() {
		s, err := e.cfg.Sources.Snapshot(ctx, spec)
		if ctx.Err() != nil {
			return
		}
		w.finish(request, s, err)
		e.queue.Add(key)
	})
}

// begin notes a request; false when it is known.
func (w *work) begin(request string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asking == request || w.asked == request {
		return false
	}
	w.asking = request
	return true
}

// finish notes the answer of the repository to a request.
func (w *work) finish(request string, s source.Snapshot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking, w.asked = "", request
	switch {
	case err == nil:
		w.heard = source.Event{Snapshot: s}
	case w.heard.Err == nil:
		w.heard.Err, w.heard.Since, w.heard.Failures = err, time.Now(), 1
	default:
		w.heard.Err = err
	}
}

// decline answers a request of an Application that cannot be synced now: the status says why.
func (w *work) decline(app *v1alpha1.Application) {
	if request := app.Annotations[v1alpha1.AnnotationSync]; request != "" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked, w.answered = request, request
	}
}

// answers notes which request the look that begins can answer: the repository's answer to it is there. One that comes while it looks is for
// the next one, for this one may have read an older commit.
func (w *work) answers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = w.asked
}

func troubleOf(ev source.Event) *v1alpha1.SourceTrouble {
	if ev.Err == nil {
		return nil
	}
	return &v1alpha1.SourceTrouble{Since: metav1.NewTime(ev.Since.Truncate(time.Second)), Message: redact.String(ev.Err.Error())}
}

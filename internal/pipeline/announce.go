package pipeline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/review"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// announceAgain is when a word that the forge did not take is tried again.
const announceAgain = 30 * time.Second

// announce has the forge told what became of the observed commit, when that is news. It runs beside the pipeline: a forge that is
// away holds nothing up.
func (e *Engine) announce(ctx context.Context, app *v1alpha1.Application, w *work) {
	to := app.Spec.Source.CommitStatus
	word, ok := wordOf(app)
	if last := w.lastWord(); last.State == review.Pending && last.Commit != app.Status.ObservedCommit {
		word, ok = overtaken(app, last), true // or it would be pending for ever
	}
	if to == nil || !ok || e.cfg.Announce == nil || !w.announces(word) {
		return
	}
	key := keyOf(app)
	app = app.DeepCopy()
	e.asks.Go(func() {
		err := e.tellForge(ctx, app, *to, word)
		if err == nil && to.LedgerHead && word.State != review.Pending {
			err = e.tellForge(ctx, app, *to, review.Status{Repo: word.Repo, Commit: word.Commit, State: review.Success, Context: word.Context + "/ledger",
				Description: e.cfg.Ledger.Head().String()})
		}
		if ctx.Err() != nil {
			return
		}
		if w.announce(word, err); err != nil {
			e.cfg.Log.Warn("the commit's status could not be set", "app", key, "err", redact.String(err.Error()))
			e.recorder.Event(app, corev1.EventTypeWarning, "CommitStatusFailed", redact.String(err.Error()))
			e.queue.AddAfter(key, announceAgain)
			return
		}
		e.queue.Add(key) // there may be a newer word
	})
}

func (e *Engine) tellForge(ctx context.Context, app *v1alpha1.Application, to v1alpha1.CommitStatus, word review.Status) error {
	secret, err := e.kube.CoreV1().Secrets(app.Namespace).Get(ctx, to.SecretRef.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("spec.source.commitStatus.secretRef: read Secret %s/%s: %w", app.Namespace, to.SecretRef.Name, err)
	}
	token := string(secret.Data["token"])
	if token == "" {
		return fmt.Errorf("spec.source.commitStatus.secretRef: Secret %s/%s has no key token; add it", app.Namespace, to.SecretRef.Name)
	}
	return e.cfg.Announce(ctx, review.Forge{API: to.URL, Token: token}, word)
}

// wordOf is what there is to say of the observed commit; false while there is nothing.
func wordOf(app *v1alpha1.Application) (review.Status, bool) {
	st := app.Status
	s := review.Status{Repo: app.Spec.Source.Repo, Commit: st.ObservedCommit, Context: "gitopsd/" + keyOf(app).String()}
	switch st.Phase {
	case v1alpha1.Applied:
		s.State, s.Description = review.Success, "applied, "+string(st.Health)
		if st.Reason != reasonApplied {
			s.State, s.Description = review.Failure, st.Reason+": "+st.Message
		}
	case v1alpha1.RolledBack, v1alpha1.Held, v1alpha1.Incomplete, v1alpha1.Failed:
		s.State, s.Description = review.Failure, fmt.Sprintf("%s, %s: %s", st.Phase, st.Reason, st.Message)
	case v1alpha1.Waiting, v1alpha1.Applying, v1alpha1.Verifying, v1alpha1.Pruning, v1alpha1.Undoing:
		s.State, s.Description = review.Pending, string(st.Phase)
	}
	return s, s.State != "" && s.Commit != "" && !strings.Contains(s.Commit, ":") // a digest is no commit of a forge
}

// overtaken is the last word about a commit that a newer one has taken the place of.
func overtaken(app *v1alpha1.Application, last review.Status) review.Status {
	by := short(app.Status.ObservedCommit)
	last.State, last.Description = review.Failure, "not applied: commit "+by+" came and took its place"
	for _, r := range app.Status.History {
		if r.Commit == last.Commit {
			last.State, last.Description = review.Success, "was applied; now commit "+by
		}
	}
	return last
}

// lastWord is the last that the forge took.
func (w *work) lastWord() review.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.announced
}

// announces notes that a word is on its way; false when the forge has it, or another one is.
func (w *work) announces(word review.Status) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.announcing || w.announced == word {
		return false
	}
	w.announcing = true
	return true
}

// announce notes what the forge said to a word.
func (w *work) announce(word review.Status, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.announcing = false; err == nil {
		w.announced = word
	}
}

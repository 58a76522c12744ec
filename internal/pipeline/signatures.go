package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"github.com/gitopsd/gitopsd/internal/source/signature"
)

// verifySignature says why a commit may not be rendered, and has the status say who signed one that may.
func (e *Engine) verifySignature(ctx context.Context, app *v1alpha1.Application, s source.Snapshot) error {
	app.Status.Signature = nil
	signer, err := e.signerOf(ctx, app, s)
	if err != nil || signer == "" {
		return err
	}
	app.Status.Signature = &v1alpha1.Signature{Commit: s.Commit, Signer: signer}
	return nil
}

// signerOf checks a commit against the keys that the Application names. "" without an error when it names none.
func (e *Engine) signerOf(ctx context.Context, app *v1alpha1.Application, s source.Snapshot) (string, error) {
	verify := app.Spec.Source.Verify
	if verify == nil {
		return "", nil
	}
	data, err := e.secretOf(ctx, app, "spec.source.verify.secretRef", verify.SecretRef.Name)
	if err != nil {
		return "", err
	}
	keys, err := signature.ParseKeys(data)
	if err != nil {
		return "", fmt.Errorf("spec.source.verify.secretRef: Secret %s/%s: %w", app.Namespace, verify.SecretRef.Name, err)
	}
	signer, err := s.Verify(keys, time.Now())
	if err != nil {
		return "", fmt.Errorf("%w; sign it with a key of Secret %s/%s, or add the key there if it is to count", err, app.Namespace, verify.SecretRef.Name)
	}
	return signer.String(), nil
}

// noteReading has the Application passed over by commits that change nothing of what it read; but for one that wants
// signatures: there each commit is looked at.
func (e *Engine) noteReading(app *v1alpha1.Application, s source.Snapshot, inputs render.Inputs) {
	if app.Spec.Source.Verify != nil {
		e.readers.drop(keyOf(app))
		return
	}
	e.readers.note(keyOf(app), s, inputs)
}

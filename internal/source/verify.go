package source

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gitopsd/gitopsd/internal/source/signature"
	"github.com/go-git/go-git/v5/plumbing"
)

// Verify says by whom the snapshot's commit is signed, as of now. A commit without a signature counts as signed by whoever
// signed the annotated tag that the ref names. It asks nobody.
func (s Snapshot) Verify(keys *signature.Keys, now time.Time) (signature.Signer, error) {
	t, ok := s.FS.(*tree)
	if !ok {
		return signature.Signer{}, &Error{Class: ErrRefused, Repo: s.Repo, Text: "signatures are read of Git commits alone", Next: "remove spec.source.verify"}
	}
	commit, err := t.m.raw(plumbing.CommitObject, plumbing.NewHash(s.Commit))
	if err != nil {
		return signature.Signer{}, err
	}
	signer, err := keys.VerifyCommit(commit, now)
	if !errors.Is(err, signature.ErrUnsigned) || s.tag.IsZero() {
		return signer, unverified("commit "+s.Commit, err)
	}
	if meant, _, err := t.m.peel(s.tag); err != nil || meant.String() != s.Commit { // what it means was the remote's word until now
		return signature.Signer{}, unverified("commit "+s.Commit, errors.Join(fmt.Errorf("its tag %s stands for another commit", quote(s.Ref)), err))
	}
	tag, err := t.m.raw(plumbing.TagObject, s.tag)
	if err != nil {
		return signature.Signer{}, err
	}
	signer, err = keys.VerifyTag(tag, s.Ref, now)
	return signer, unverified("commit "+s.Commit+" is not signed, and of its tag "+quote(s.Ref), err)
}

func unverified(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// raw is an object as Git stores it, without its header. What is too long to be verified is cut off behind that length.
func (m *mirror) raw(kind plumbing.ObjectType, h plumbing.Hash) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.store.EncodedObject(kind, h)
	if err != nil {
		return nil, m.lost(kind.String()+" "+h.String(), err)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, m.lost(kind.String()+" "+h.String(), err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, signature.MaxObject+1))
	if err != nil {
		return nil, m.lost(kind.String()+" "+h.String(), err)
	}
	return data, nil
}

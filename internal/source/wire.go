package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
)

// refList is what a remote says it has.
type refList struct {
	head   string                   // the full name HEAD points to; "" when detached or unborn
	hashes map[string]plumbing.Hash // full name, and HEAD, to commit or tag object
	peeled map[string]plumbing.Hash // annotated tags to what they tag, as far as the remote says so
}

// session is one conversation with a remote repository: first refs, then any number of fetches.
type session interface {
	refs(ctx context.Context) (*refList, error)
	// fetch brings the objects of the wanted commits or tags into the mirror. It does not say whether they
	// are complete: the mirror finds out.
	fetch(ctx context.Context, m *mirror, want []plumbing.Hash) error
	close()
}

// conversation carries the two steps of Git's pack protocol, version 0 (gitprotocol-pack(5)).
type conversation interface {
	advertisement(ctx context.Context) (io.ReadCloser, error)
	// request sends what encode writes and returns the answer.
	request(ctx context.Context, encode func(io.Writer) error) (io.ReadCloser, error)
	close()
}

// wire is a session over a conversation.
type wire struct {
	conversation
	limits Limits
	adv    *packp.AdvRefs
}

func (w *wire) refs(ctx context.Context) (*refList, error) {
	body, err := w.advertisement(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	adv := packp.NewAdvRefs()
	counted := &countingReader{r: io.LimitReader(body, w.limits.Advert)}
	if err := adv.Decode(counted); err != nil {
		return nil, w.advertError(ctx, err, counted.n)
	}
	if len(adv.References) == 0 && adv.Head == nil {
		return nil, errEmpty()
	}
	for _, c := range []capability.Capability{capability.MultiACK, capability.MultiACKDetailed} { // the library cannot read them
		adv.Capabilities.Delete(c)
	}
	w.adv = adv
	list := &refList{hashes: adv.References, peeled: adv.Peeled}
	if list.hashes == nil {
		list.hashes = map[string]plumbing.Hash{}
	}
	if adv.Head != nil {
		list.hashes["HEAD"] = *adv.Head
	}
	for _, s := range adv.Capabilities.Get(capability.SymRef) {
		if name, target, ok := strings.Cut(s, ":"); ok && name == "HEAD" {
			list.head = target
		}
	}
	return list, nil
}

func errEmpty() error {
	return &Error{Class: ErrEmpty, Text: "the repository has no commit yet", Next: "push one; gitopsd waits for it"}
}

func (w *wire) advertError(ctx context.Context, err error, got int64) error {
	var line *pktline.ErrorLine
	var ours *Error
	switch {
	case ctx.Err() != nil:
		return err
	case errors.As(err, &ours):
		return ours
	case errors.Is(err, packp.ErrEmptyAdvRefs):
		return errEmpty()
	case errors.As(err, &line):
		return remoteSays(line.Text)
	case got >= w.limits.Advert:
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the list of refs is longer than %d MiB", w.limits.Advert>>20), Next: "delete refs that nobody needs"}
	case errors.Is(err, packp.ErrEmptyInput), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &Error{Class: ErrUnreachable, Text: "the remote ended the connection without an answer", Next: "check that the repository exists and that the Git server runs"}
	}
	var netErr interface{ Timeout() bool }
	if errors.As(err, &netErr) {
		return err
	}
	return &Error{Class: ErrBroken, Text: "the remote's list of refs is not understood", Err: err, Next: "check that the URL is a Git repository of object format sha1"}
}

// remoteSays wraps an ERR line, whose text is free. Servers tell a missing repository in no other way, which is
// why go-git too looks at the text; it decides only about the words of the error, not about what is done.
func remoteSays(text string) error {
	low := strings.ToLower(text)
	switch {
	case strings.Contains(low, "not our ref"):
		return &Error{Class: ErrRefNotFound, Text: "the remote has no such commit", Next: "push the commit, or correct ref.commit"}
	case strings.Contains(low, "not found"), strings.Contains(low, "does not exist"), strings.Contains(low, "does not appear to be a git repository"):
		return &Error{Class: ErrNotFound, Text: "the remote says: " + oneLine(text), Next: "correct the repository's URL, or give credentials that may see it"}
	case strings.Contains(low, "denied"), strings.Contains(low, "access"), strings.Contains(low, "permission"):
		return &Error{Class: ErrAuth, Text: "the remote says: " + oneLine(text), Next: "give credentials that may read the repository"}
	}
	return &Error{Class: ErrBroken, Text: "the remote says: " + oneLine(text)}
}

// fetch asks for single commits and says which trees are here, so that an increment is all that comes. Servers send
// increments of single commits only as thin packs, which lean on what the client has.
func (w *wire) fetch(ctx context.Context, m *mirror, want []plumbing.Hash) error {
	req := packp.NewUploadPackRequestFromCapabilities(w.adv.Capabilities)
	req.Wants = want
	if w.adv.Capabilities.Supports(capability.NoProgress) {
		_ = req.Capabilities.Set(capability.NoProgress)
	}
	if w.wholeHistory(want) {
		req.Wants = w.tips()
		m.bulky = true
	} else if w.adv.Capabilities.Supports(capability.Shallow) {
		_ = req.Capabilities.Set(capability.Shallow)
		req.Depth = packp.DepthCommits(1)
		req.Haves = m.haves()
		req.Shallows = append([]plumbing.Hash(nil), req.Haves...)
	}
	body, err := w.request(ctx, func(to io.Writer) error { return encodeRequest(to, req) })
	if err != nil {
		return err
	}
	defer body.Close()
	resp := packp.NewUploadPackResponse(req)
	if err := resp.Decode(io.NopCloser(&bounded{r: body, left: w.limits.Pack + 1<<20})); err != nil {
		return packError(ctx, err)
	}
	var pack io.Reader = resp
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		pack = sideband.NewDemuxer(sideband.Sideband, resp)
	}
	_, err = m.install(pack, m.limits)
	return packError(ctx, err)
}

// wholeHistory reports whether some wanted commit can be had only by fetching everything: it is no tip, and the
// remote does not serve commits by their hash.
func (w *wire) wholeHistory(want []plumbing.Hash) bool {
	caps := w.adv.Capabilities
	if caps.Supports(capability.AllowReachableSHA1InWant) || caps.Supports("allow-any-sha1-in-want") {
		return false
	}
	tips := map[plumbing.Hash]bool{}
	for _, h := range w.tips() {
		tips[h] = true
	}
	for _, h := range w.adv.Peeled {
		tips[h] = tips[h] || caps.Supports(capability.AllowTipSHA1InWant)
	}
	for _, h := range want {
		if !tips[h] {
			return true
		}
	}
	return false
}

func (w *wire) tips() []plumbing.Hash {
	var tips []plumbing.Hash
	if w.adv.Head != nil {
		tips = append(tips, *w.adv.Head)
	}
	for _, h := range w.adv.References {
		tips = append(tips, h)
	}
	return tips
}

func encodeRequest(to io.Writer, req *packp.UploadPackRequest) error {
	if err := req.UploadRequest.Encode(to); err != nil {
		return err
	}
	if err := req.UploadHaves.Encode(to, false); err != nil {
		return err
	}
	return pktline.NewEncoder(to).EncodeString("done\n")
}

func packError(ctx context.Context, err error) error {
	var line *pktline.ErrorLine
	var e *Error
	switch {
	case err == nil, ctx.Err() != nil, errors.As(err, &e):
		return err
	case errors.As(err, &line):
		return remoteSays(line.Text)
	}
	var netErr interface{ Timeout() bool }
	if errors.As(err, &netErr) {
		return err
	}
	return &Error{Class: ErrBroken, Text: "the remote sent a broken pack", Err: err, Next: "run git fsck on the server; gitopsd tries again by itself"}
}

// bounded fails when more comes than may. The decoders of the protocol read as long as something comes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, &Error{Class: ErrTooLarge, Text: "the remote sends more than a fetch may bring", Next: "split the repository, or take large files out of it"}
	}
	return n, err
}

// countingReader counts what went through it.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// watchdog cancels a conversation that stalls. Every byte that is seen postpones it.
type watchdog struct {
	timer *time.Timer
	after time.Duration
}

// watch returns a context that ends with a timeout error when touch was not called for that long.
func watch(ctx context.Context, after time.Duration) (context.Context, *watchdog, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{after: after}
	w.timer = time.AfterFunc(after, func() {
		cancel(&Error{Class: ErrTimeout, Text: fmt.Sprintf("the remote sent nothing for %s", after), Next: "check the Git server; gitopsd tries again by itself"})
	})
	return ctx, w, func() { w.timer.Stop(); cancel(nil) }
}

func (w *watchdog) touch() { w.timer.Reset(w.after) }

// attentive touches the watchdog with every read that brings something.
type attentive struct {
	io.ReadCloser
	dog *watchdog
}

func (a attentive) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	if n > 0 {
		a.dog.touch()
	}
	return n, err
}

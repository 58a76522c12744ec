package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// What a ledger in a cluster is made of. Every segment is a Secret, and so is the key.
const (
	keySecret     = "gitopsd-ledger-key"
	secretPrefix  = "gitopsd-ledger-"
	secretType    = "gitopsd.io/ledger"
	labelSegment  = "gitopsd.io/ledger"
	linesKey      = "lines"
	epochOfWriter = "gitopsd.io/epoch"
	nextSegment   = "gitopsd.io/next"   // on a segment that is complete: the one behind it
	mendedAt      = "gitopsd.io/mended" // moves the version, so that a write that is still on its way cannot land

	requestTimeout = 30 * time.Second
)

// ErrFenced says that another process has taken the ledger over: this one may not write to it any more.
var ErrFenced = errors.New("another gitopsd has taken over")

// OpenCluster opens the ledger that is kept in Secrets of a namespace, as Open does one of a folder. Epoch is the number of this process's
// turn: it fences off every process with a smaller one, also for writes that are on their way. Segments are small, because each append
// writes one anew: by default 64 KiB, and 8 MiB are kept. An entry of very many objects names the first of them.
func OpenCluster(api typedcorev1.SecretInterface, epoch int64, o Options) (*Ledger, error) {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 64 << 10
	}
	if o.KeepBytes <= 0 {
		o.KeepBytes = 8 << 20
	}
	o.lineBytes = 256 << 10
	return openStore(&cluster{api: api, epoch: epoch}, o)
}

// cluster keeps segments in Secrets. Every write of one names the version that it was read at, so of two writers one is refused.
type cluster struct {
	api     typedcorev1.SecretInterface
	epoch   int64
	listed  map[uint64]*corev1.Secret
	current *corev1.Secret // as it was after our last write; nil before the first segment
	doubt   bool           // that write failed: current may have changed
}

func (c *cluster) place() string { return "the Secrets " + secretPrefix + "* of gitopsd's namespace" }

func (c *cluster) segmentName(first uint64) string {
	return fmt.Sprintf("%s%020d", secretPrefix, first)
}

func (c *cluster) close() error { return nil }

func request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), requestTimeout)
}

func (c *cluster) list() ([]uint64, error) {
	ctx, cancel := request()
	defer cancel()
	var err error
	if c.listed, err = listSegments(ctx, c.api); err != nil {
		return nil, err
	}
	c.current, c.doubt = nil, false
	return slices.Sorted(maps.Keys(c.listed)), nil
}

func listSegments(ctx context.Context, api typedcorev1.SecretInterface) (map[uint64]*corev1.Secret, error) {
	all, err := api.List(ctx, metav1.ListOptions{LabelSelector: labelSegment + "=segment"})
	if err != nil {
		return nil, err
	}
	out := map[uint64]*corev1.Secret{}
	for i := range all.Items {
		s := &all.Items[i]
		first, err := strconv.ParseUint(s.Labels[labelSegment+"-first"], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("Secret %s does not say which entry it begins with", s.Name)
		}
		out[first] = s
	}
	return out, nil
}

func (c *cluster) open(first uint64) (io.ReadCloser, error) {
	s := c.listed[first]
	if c.current != nil { // the ledger is open: what was listed then is old
		ctx, cancel := request()
		defer cancel()
		var err error
		if s, err = c.api.Get(ctx, c.segmentName(first), metav1.GetOptions{}); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(bytes.NewReader(s.Data[linesKey])), nil
}

// resume puts this process's epoch on a segment. What an earlier one still has on its way names an older version and is refused.
func (c *cluster) resume(first uint64) (closed bool, err error) {
	s := c.listed[first]
	if err := c.fenced(s); err != nil {
		return false, err
	}
	s = s.DeepCopy()
	c.stamp(s)
	ctx, cancel := request()
	defer cancel()
	taken, err := c.api.Update(ctx, s, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, errMoved
	}
	if err != nil {
		return false, err
	}
	c.current, c.listed = taken, nil
	return taken.Annotations[nextSegment] != "", nil
}

func (c *cluster) stamp(s *corev1.Secret) {
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, epochOfWriter, strconv.FormatInt(c.epoch, 10))
}

func (c *cluster) fenced(s *corev1.Secret) error {
	epoch, _ := strconv.ParseInt(s.Annotations[epochOfWriter], 10, 64)
	if epoch > c.epoch {
		return fmt.Errorf("write to the ledger: %w", ErrFenced)
	}
	return nil
}

// update writes the current segment, if nobody else has since.
func (c *cluster) update(s *corev1.Secret) error {
	ctx, cancel := request()
	defer cancel()
	written, err := c.api.Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		c.doubt = true
		if apierrors.IsConflict(err) { // by whom
			if now, getErr := c.api.Get(ctx, s.Name, metav1.GetOptions{}); getErr == nil {
				err = cmp.Or(c.fenced(now), err)
			}
		}
		return err
	}
	c.current, c.doubt = written, false
	return nil
}

func (c *cluster) append(at int64, lines []byte) error {
	s := c.current.DeepCopy()
	s.Data[linesKey] = append(s.Data[linesKey][:at:at], lines...)
	return c.update(s)
}

// mend reads the segment again and writes it as it was acknowledged, whatever has become of the write that failed.
func (c *cluster) mend(size int64) error {
	ctx, cancel := request()
	defer cancel()
	now, err := c.api.Get(ctx, c.current.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return c.gone(ctx)
	}
	if err != nil {
		return err
	}
	if err := c.fenced(now); err != nil {
		return err
	}
	lines := now.Data[linesKey]
	if int64(len(lines)) < size || !bytes.Equal(lines[:size], c.current.Data[linesKey][:size]) {
		return fmt.Errorf("somebody else has changed Secret %s; gitopsd audit verify tells where", now.Name)
	}
	now.Data[linesKey] = lines[:size]
	metav1.SetMetaDataAnnotation(&now.ObjectMeta, mendedAt, time.Now().UTC().Format(time.RFC3339Nano))
	return c.update(now)
}

// gone says why the current segment is: a later process has dropped it as too old, or somebody has removed it.
func (c *cluster) gone(ctx context.Context) error {
	segments, err := listSegments(ctx, c.api)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := c.fenced(s); err != nil {
			return err
		}
	}
	return fmt.Errorf("somebody has removed Secret %s; restore it from a backup", c.current.Name)
}

// begin closes the current segment with the name of the next one, and makes that. Since closing names a version, only one process can be
// the one that begins the next segment.
func (c *cluster) begin(first uint64, line []byte) error {
	name := c.segmentName(first)
	if c.current != nil && c.doubt {
		if err := c.mend(int64(len(c.current.Data[linesKey]))); err != nil {
			return err
		}
	}
	if c.current != nil && c.current.Annotations[nextSegment] == "" {
		s := c.current.DeepCopy()
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, nextSegment, name)
		if err := c.update(s); err != nil {
			return err
		}
	}
	s := &corev1.Secret{Type: secretType, Data: map[string][]byte{linesKey: line}, ObjectMeta: metav1.ObjectMeta{Name: name,
		Labels: map[string]string{labelSegment: "segment", labelSegment + "-first": strconv.FormatUint(first, 10)}}}
	c.stamp(s)
	ctx, cancel := request()
	defer cancel()
	made, err := c.api.Create(ctx, s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = c.again(ctx, s)
	}
	if err != nil {
		return err
	}
	c.current, c.doubt = made, false
	return nil
}

// again replaces a segment whose making had an answer that was lost. Nothing in it counts.
func (c *cluster) again(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	there, err := c.api.Get(ctx, s.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if err := c.fenced(there); err != nil {
		return nil, err
	}
	if there.Annotations[epochOfWriter] != s.Annotations[epochOfWriter] {
		return nil, errMoved
	}
	s.ResourceVersion, s.UID = there.ResourceVersion, there.UID
	return c.api.Update(ctx, s, metav1.UpdateOptions{})
}

func (c *cluster) remove(first uint64) error {
	ctx, cancel := request()
	defer cancel()
	err := c.api.Delete(ctx, c.segmentName(first), metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *cluster) keys(empty bool) (ed25519.PrivateKey, error) {
	ctx, cancel := request()
	defer cancel()
	s, err := c.api.Get(ctx, keySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if !empty {
			return nil, fmt.Errorf("open ledger: Secret %s is missing; restore it from a backup, or remove %s: a new ledger is begun then", keySecret, c.place())
		}
		if s, err = c.makeKeys(ctx); apierrors.IsAlreadyExists(err) {
			s, err = c.api.Get(ctx, keySecret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open ledger: read Secret %s: %w", keySecret, err)
	}
	key, err := parsePEM[ed25519.PrivateKey](s.Data[keyFile], "PRIVATE KEY", x509.ParsePKCS8PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("open ledger: Secret %s: %w; restore it from a backup", keySecret, err)
	}
	return key, nil
}

func (c *cluster) makeKeys(ctx context.Context) (*corev1.Secret, error) {
	_, private, public, err := newKey()
	if err != nil {
		return nil, err
	}
	s := &corev1.Secret{Type: secretType, ObjectMeta: metav1.ObjectMeta{Name: keySecret, Labels: map[string]string{labelSegment: "key"}},
		Data: map[string][]byte{keyFile: private, PublicKeyFile: public}}
	return c.api.Create(ctx, s, metav1.CreateOptions{})
}

// ErrNoLedger says that a namespace has none.
var ErrNoLedger = errors.New("there is no ledger")

// Fetch copies the ledger of a cluster and its public key into a folder, for Read and Verify.
func Fetch(ctx context.Context, api typedcorev1.SecretInterface, dir string) error {
	segments, err := listSegments(ctx, api)
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	if len(segments) == 0 {
		return ErrNoLedger
	}
	key, err := api.Get(ctx, keySecret, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the ledger's public key: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, PublicKeyFile), key.Data[PublicKeyFile], 0o600); err != nil {
		return err
	}
	for first, s := range segments {
		if err := durable.WriteFile(filepath.Join(dir, segmentName(first)), s.Data[linesKey], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// fit leaves objects out of an entry that is too large for where it is kept.
func (l *Ledger) fit(e Entry) Entry {
	if l.lineBytes == 0 {
		return e
	}
	text, err := json.Marshal(e)
	if err != nil || len(text) <= l.lineBytes {
		return e // what cannot be encoded is said when it is sealed
	}
	all := len(e.Objects)
	n := all * l.lineBytes / len(text) * 9 / 10
	e.Objects = append(slices.Clip(e.Objects[:n]), ObjectChange{Object: fmt.Sprintf("and %d more", all-n), Action: "not named"})
	return e
}

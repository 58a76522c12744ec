package intent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
)

// What contents in a cluster are made of. A Secret holds at most 1 MiB.
const (
	chunkBytes    = 768 << 10 // of plain bytes; each chunk is sealed by itself
	keySecret     = "gitopsd-revisions-key"
	secretPrefix  = "gitopsd-revision-"
	secretType    = "gitopsd.io/revision"
	labelOwner    = "gitopsd.io/revision-of"
	contentName   = "gitopsd.io/content"
	contentChunks = "gitopsd.io/chunks" // on the first chunk, which is written last: how many there are
	epochOfWriter = "gitopsd.io/epoch"

	requestTimeout = 30 * time.Second
)

// Secrets is a store of contents in Secrets of a namespace: compressed, encrypted and named as Files does it, in chunks of which the first
// is written last. The key is a Secret of the same namespace: it keeps a backup of the revisions alone from being read, and nothing from
// who may read the namespace's Secrets.
//
// What a process before this one has still on its way cannot take away what this one has put: putting a content that is there marks it
// with this process's epoch, and whoever removes one names the version that it has seen.
type Secrets struct {
	sealer
	api   typedcorev1.SecretInterface
	names metadata.ResourceInterface // of the same Secrets, without their data
	epoch string
}

// OpenSecrets opens the store of a namespace and makes its key where there is none.
func OpenSecrets(api typedcorev1.SecretInterface, names metadata.ResourceInterface, epoch int64) (*Secrets, error) {
	ctx, cancel := request()
	defer cancel()
	key, err := clusterKey(ctx, api)
	if err != nil {
		return nil, err
	}
	s := &Secrets{api: api, names: names, epoch: strconv.FormatInt(epoch, 10)}
	s.sealer, err = newSealer(key)
	return s, err
}

// ReadSecrets opens the store of a namespace for Get alone.
func ReadSecrets(ctx context.Context, api typedcorev1.SecretInterface) (*Secrets, error) {
	s, err := api.Get(ctx, keySecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the key of revisions: %w", err)
	}
	out := &Secrets{api: api}
	out.sealer, err = newSealer(s.Data["key"])
	return out, err
}

func request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), requestTimeout)
}

func clusterKey(ctx context.Context, api typedcorev1.SecretInterface) ([]byte, error) {
	s, err := api.Get(ctx, keySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		s, err = api.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: keySecret}, Type: secretType, Data: map[string][]byte{"key": key}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			s, err = api.Get(ctx, keySecret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of revisions, Secret %s: %w", keySecret, err)
	}
	if len(s.Data["key"]) != 32 {
		return nil, fmt.Errorf("Secret %s holds no key of 32 bytes; restore it from a backup, or remove it: what can be rolled back to is lost then", keySecret)
	}
	return s.Data["key"], nil
}

// secretName is the Secret of a chunk; another owner's is another one.
func secretName(owner, name string, chunk int) string {
	id := secretPrefix + nameOf([]byte(owner + "/" + name))[:40]
	if chunk == 0 {
		return id
	}
	return id + "-" + strconv.Itoa(chunk)
}

// chunkName is what a chunk is sealed under.
func chunkName(name string, chunk int) string { return name + "/" + strconv.Itoa(chunk) }

func chunksOf(content []byte) [][]byte {
	var out [][]byte
	for len(content) > chunkBytes {
		out, content = append(out, content[:chunkBytes]), content[chunkBytes:]
	}
	return append(out, content)
}

// Put keeps a content and returns its name, after the API has all of it.
func (s *Secrets) Put(owner string, content []byte) (name string, err error) {
	name = nameOf(content)
	chunks := chunksOf(content)
	for n := len(chunks) - 1; n >= 0; n-- {
		secret := &corev1.Secret{Type: secretType, Data: map[string][]byte{"chunk": s.close(chunks[n], chunkName(name, n))},
			ObjectMeta: metav1.ObjectMeta{Name: secretName(owner, name, n), Labels: map[string]string{labelOwner: owner},
				Annotations: map[string]string{contentName: name, epochOfWriter: s.epoch}}}
		if n == 0 {
			secret.Annotations[contentChunks] = strconv.Itoa(len(chunks))
		}
		if err := s.ensure(secret); err != nil {
			return "", fmt.Errorf("keep revision: %w", err)
		}
	}
	return name, nil
}

// ensure makes a Secret, or marks the one that is there as put by this process.
func (s *Secrets) ensure(secret *corev1.Secret) error {
	const tries = 10
	ctx, cancel := request()
	defer cancel()
	var err error
	for range tries {
		if _, err = s.api.Create(ctx, secret, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
			return err
		}
		there, getErr := s.api.Get(ctx, secret.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(getErr) {
			continue
		}
		if getErr != nil {
			return getErr
		}
		if there.Annotations[epochOfWriter] == s.epoch {
			return nil
		}
		there.Annotations[epochOfWriter] = s.epoch
		if _, err = s.api.Update(ctx, there, metav1.UpdateOptions{}); !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return err
}

// Get returns a content, or ErrAbsent.
func (s *Secrets) Get(owner, name string) ([]byte, error) {
	if name == "" {
		return nil, ErrAbsent
	}
	ctx, cancel := request()
	defer cancel()
	var content []byte
	for n, all := 0, 1; n < all; n++ {
		secret, err := s.api.Get(ctx, secretName(owner, name, n), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, ErrAbsent
		}
		if err != nil {
			return nil, fmt.Errorf("read revision: %w", err)
		}
		if n == 0 {
			if all, err = strconv.Atoi(secret.Annotations[contentChunks]); err != nil {
				return nil, fmt.Errorf("read revision %.12s: Secret %s does not say how many chunks there are", name, secret.Name)
			}
		}
		chunk, err := s.unseal(secret.Data["chunk"], chunkName(name, n))
		if err != nil {
			return nil, err
		}
		content = append(content, chunk...)
	}
	if nameOf(content) != name {
		return nil, fmt.Errorf("read revision %.12s: its chunks do not belong together", name)
	}
	return content, nil
}

// Keep removes every content of an owner that is not named, and what a crash left half written.
func (s *Secrets) Keep(owner string, named map[string]bool) error {
	ctx, cancel := request()
	defer cancel()
	all, err := s.names.List(ctx, metav1.ListOptions{LabelSelector: labelOwner + "=" + owner})
	if err != nil {
		return fmt.Errorf("list revisions: %w", err)
	}
	var errs []error
	for _, first := range []bool{true, false} { // a content without its first chunk is none
		for _, o := range all.Items {
			if named[o.Annotations[contentName]] || (o.Annotations[contentChunks] != "") != first {
				continue
			}
			uid, version := o.UID, o.ResourceVersion
			err := s.api.Delete(ctx, o.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // a conflict: it was put again
				errs = append(errs, fmt.Errorf("remove revision %s: %w", o.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Drop removes all contents of an owner.
func (s *Secrets) Drop(owner string) error { return s.Keep(owner, nil) }

package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// Image is an object as it was before an intent changed it. Object is nil when it was absent; it has no status, and its
// managedFields say who had set what.
type Image struct {
	Held   Held           `json:"held"`
	Object map[string]any `json:"object,omitempty"`
	// Wave of the revision in which it is written.
	Wave int `json:"wave,omitempty"`
}

// Foreign says that the object was there and was not the target's.
func (i Image) Foreign(t Target) bool {
	return i.Object != nil && (&unstructured.Unstructured{Object: i.Object}).GetLabels()[t.Label] != t.Owner
}

// Images are the images of all that a proven plan changes.
func (p *Proof) Images(desired []Object) []Image {
	var out []Image
	for _, o := range desired {
		if p.changes[o.Ref()].Action == diff.Unchanged {
			continue
		}
		i := Image{Held: Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version}, Wave: waveOf(o.Unstructured)}
		if live := p.live[o.Ref()]; live != nil && live.GetDeletionTimestamp() == nil {
			i.Held.UID = string(live.GetUID())
			i.Object = live.DeepCopy().Object
			delete(i.Object, "status")
		}
		out = append(out, i)
	}
	return out
}

// Union adds to images those of objects that have none yet: what an object was before the first of several intents is
// what it was.
func Union(images, later []Image) []Image {
	out := slices.Clone(images)
	for _, l := range later {
		if !slices.ContainsFunc(images, func(i Image) bool { return i.Held.Ref == l.Held.Ref }) {
			out = append(out, l)
		}
	}
	return out
}

// stored is one object of a revision's content.
type stored struct {
	Origin string         `json:"origin,omitempty"`
	Object map[string]any `json:"object"`
}

// Encode writes objects as they are kept: one JSON document a line, in their order.
func Encode(objects []Object) ([]byte, error) {
	var b bytes.Buffer
	for _, o := range objects {
		if err := appendLine(&b, stored{o.Origin, o.Object}); err != nil {
			return nil, fmt.Errorf("encode %s: %w", o.Ref(), err)
		}
	}
	return b.Bytes(), nil
}

// Decode reads what Encode wrote.
func Decode(content []byte) ([]Object, error) {
	var out []Object
	err := eachLine(content, func(s stored) {
		out = append(out, Object{&unstructured.Unstructured{Object: s.Object}, s.Origin})
	})
	return out, err
}

// EncodeImages writes images as they are kept.
func EncodeImages(images []Image) ([]byte, error) {
	var b bytes.Buffer
	for _, i := range images {
		if err := appendLine(&b, i); err != nil {
			return nil, fmt.Errorf("encode image of %s: %w", i.Held.Ref, err)
		}
	}
	return b.Bytes(), nil
}

// DecodeImages reads what EncodeImages wrote.
func DecodeImages(content []byte) ([]Image, error) {
	var out []Image
	err := eachLine(content, func(i Image) { out = append(out, i) })
	return out, err
}

func appendLine(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// eachLine decodes numbers as the API's own decoder does: integers as int64.
func eachLine[T any](content []byte, f func(T)) error {
	d := json.NewDecoder(bytes.NewReader(content))
	for {
		var raw json.RawMessage
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read kept content: %w", err)
		}
		var v T
		if err := utiljson.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("read kept content: %w", err)
		}
		f(v)
	}
}

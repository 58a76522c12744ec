package daemon

import (
	"cmp"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// SourceOptions say what may be read as a repository, and how much of repositories is kept.
type SourceOptions struct {
	AllowFiles bool          `json:"allowFiles,omitempty"` // folders of this machine for Applications of every namespace
	Unused     time.Duration `json:"unused,omitempty"`     // a mirror that nobody used for so long is deleted
	CacheSize  string        `json:"cacheSize,omitempty"`  // a quantity, as Kubernetes writes them
	CacheBytes int64         `json:"-"`

	Webhook WebhookOptions `json:"webhook,omitzero"`
}

func defaultSourceOptions() SourceOptions {
	return SourceOptions{Unused: 24 * time.Hour, CacheSize: "10Gi"}
}

func (o *SourceOptions) complete() error {
	d := defaultSourceOptions()
	o.Unused, o.CacheSize = cmp.Or(o.Unused, d.Unused), cmp.Or(o.CacheSize, d.CacheSize)
	if o.Unused < time.Minute {
		return fmt.Errorf("--source-cache-unused %s is too short; at least 1m", o.Unused)
	}
	size, err := resource.ParseQuantity(o.CacheSize)
	if err != nil || size.Value() < 1<<20 {
		return fmt.Errorf("--source-cache-size %q is no size of at least 1Mi; write one such as 10Gi", o.CacheSize)
	}
	o.CacheBytes = size.Value()
	return o.Webhook.check()
}

package pipeline

import (
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
)

// mapper knows which resource a kind is. client-go's own goes through all groups of the API for each question; this one keeps answers until Reset.
type mapper struct {
	*restmapper.DeferredDiscoveryRESTMapper
	known atomic.Pointer[sync.Map] // of version and kind to *meta.RESTMapping
}

func newMapper(kube kubernetes.Interface) *mapper {
	m := &mapper{DeferredDiscoveryRESTMapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kube.Discovery()))}
	m.known.Store(&sync.Map{})
	return m
}

type versioned struct {
	kind     schema.GroupKind
	versions string
}

// RESTMapping implements meta.RESTMapper.
func (m *mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	key, known := versioned{kind, strings.Join(versions, " ")}, m.known.Load()
	if found, ok := known.Load(key); ok {
		return found.(*meta.RESTMapping), nil
	}
	found, err := m.DeferredDiscoveryRESTMapper.RESTMapping(kind, versions...)
	if err == nil {
		known.Store(key, found)
	}
	return found, err
}

// Reset has everything asked anew.
func (m *mapper) Reset() {
	m.DeferredDiscoveryRESTMapper.Reset()
	m.known.Store(&sync.Map{}) // what is on its way into the one of before may be old
}

package controlplane

import (
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	serveroptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// stores has the API's stores call the functions of the etcd in this process, where they would speak gRPC to it.
type stores struct {
	etcd      *etcdserver.EtcdServer
	compactor etcd3.Compactor
	caches    map[schema.GroupResource]int // sizes that the API's options give by name: 0 is for no cache
}

// storeInside replaces how the three servers of the API open their stores. The function that it returns ends what it has begun.
func storeInside(config *apiserver.Config, etcd *etcdserver.EtcdServer) (func(), error) {
	options := config.Options.Etcd
	caches, err := serveroptions.ParseWatchCacheSizes(options.WatchCacheSizes)
	if err != nil {
		return nil, err
	}
	client := v3client.New(etcd)
	feature.DefaultFeatureSupportChecker.CheckClient(client.Ctx(), named{client}, storage.RequestWatchProgress)
	compactor := etcd3.StartCompactorPerEndpoint(client, options.StorageConfig.CompactionInterval)
	s := stores{etcd, compactor, caches}
	for _, getter := range []*generic.RESTOptionsGetter{
		&config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter,
		&config.Aggregator.GenericConfig.RESTOptionsGetter,
		&config.ApiExtensions.GenericConfig.RESTOptionsGetter,
		&config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter,
	} {
		*getter = inside{*getter, s}
	}
	return func() {
		compactor.Stop()
		client.Close()
	}, nil
}

// named has an endpoint, by which features are looked up.
type named struct{ *clientv3.Client }

func (named) Endpoints() []string { return []string{"inside"} }

// inside is the options of stores, which are opened inside the process.
type inside struct {
	generic.RESTOptionsGetter
	stores
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (i inside) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := i.RESTOptionsGetter.GetRESTOptions(resource, example)
	options.Decorator = i.cached
	if size, told := i.caches[resource]; told && size == 0 {
		options.Decorator = i.plain
	}
	return options, err
}

// plain is a generic.StorageDecorator for a store without a cache of watches.
func (s stores) plain(c *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error), one, list func() runtime.Object,
	_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	client := &kubernetes.Client{Client: v3client.New(s.etcd)}
	client.Kubernetes = client
	client.KV = etcd3.NewETCDLatencyTracker(client.KV)
	transformer := c.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	store, err := etcd3.New(client, s.compactor, c.Codec, one, list, c.Prefix, prefix, c.GroupResource, transformer, c.LeaseManagerConfig,
		etcd3.NewDefaultDecoder(c.Codec, versioner), versioner)
	if err != nil {
		client.Close()
		return nil, nil, fmt.Errorf("open the store of %s: %w", c.GroupResource, err)
	}
	return store, sync.OnceFunc(func() {
		store.Close()
		client.Close()
	}), nil
}

// cached is a generic.StorageDecorator for a store with a cache of watches.
func (s stores) cached(c *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), one, list func() runtime.Object,
	attrs storage.AttrFunc, indexed storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	store, destroy, err := s.plain(c, prefix, key, one, list, attrs, indexed, indexers)
	if err != nil {
		return nil, nil, err
	}
	watches, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: store, Versioner: storage.APIObjectVersioner{}, GroupResource: c.GroupResource, EventsHistoryWindow: c.EventsHistoryWindow,
		ResourcePrefix: prefix, KeyFunc: key, NewFunc: one, NewListFunc: list, GetAttrsFunc: attrs, IndexerFuncs: indexed, Indexers: indexers, Codec: c.Codec,
	})
	if err != nil {
		destroy()
		return nil, nil, fmt.Errorf("cache the store of %s: %w", c.GroupResource, err)
	}
	delegator := cacher.NewCacheDelegator(watches, store)
	return delegator, sync.OnceFunc(func() {
		delegator.Stop()
		watches.Stop()
		destroy()
	}), nil
}

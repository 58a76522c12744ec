package fakeapi

import (
	"context"
	"hash/fnv"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/utils/ptr"
	"net"
)

// serviceRules gives a Service its address, which kube-apiserver does outside of the strategy. It is made from the name: no two
// Services of one test are to meet.
type serviceRules struct{ strategy }

func (r serviceRules) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	r.strategy.PrepareForCreate(ctx, obj)
	s := obj.(*core.Service)
	if s.Spec.Type == core.ServiceTypeExternalName {
		return
	}
	if s.Spec.ClusterIP == "" {
		h := fnv.New32()
		h.Write([]byte(s.Namespace + "/" + s.Name))
		n := h.Sum32()
		s.Spec.ClusterIP = net.IPv4(10, 96, byte(n>>8), byte(n)).String()
	}
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []core.IPFamily{core.IPv4Protocol}, ptr.To(core.IPFamilyPolicySingleStack)
}

func (r serviceRules) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s, was := obj.(*core.Service), old.(*core.Service)
	if s.Spec.ClusterIP == "" {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = was.Spec.ClusterIP, was.Spec.ClusterIPs
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = was.Spec.IPFamilies, was.Spec.IPFamilyPolicy
	}
	r.strategy.PrepareForUpdate(ctx, obj, old)
}

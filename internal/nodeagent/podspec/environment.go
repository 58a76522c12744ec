package podspec

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
)

// Objects gives the config maps and secrets that an environment refers to.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Environment is where the values of variables come from.
type Environment struct {
	Objects  Objects
	Services []*v1.Service // of all namespaces
	Facts    downward.Facts
}

// variables keeps the order in which names were first set.
type variables struct {
	values map[string]string
	order  []string
}

func (v *variables) set(name, value string) {
	if _, ok := v.values[name]; !ok {
		v.order = append(v.order, name)
	}
	v.values[name] = value
}

// Of resolves the environment of a container: services first, envFrom over them, env over all.
func (e Environment) Of(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]*runtimeapi.KeyValue, error) {
	services := e.services(pod)
	out := &variables{values: map[string]string{}}
	for i := range c.EnvFrom {
		if err := e.from(ctx, pod, &c.EnvFrom[i], out); err != nil {
			return nil, err
		}
	}
	lookup := expansion.MappingFuncFor(out.values, services)
	for i := range c.Env {
		v := &c.Env[i]
		value := v.Value
		switch {
		case value != "":
			value = expansion.Expand(value, lookup)
		case v.ValueFrom != nil:
			var skip bool
			var err error
			if value, skip, err = e.valueFrom(ctx, pod, c, v.ValueFrom); err != nil {
				return nil, err
			}
			if skip {
				continue
			}
		}
		out.set(v.Name, value)
	}
	names := make([]string, 0, len(services))
	for name := range services {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if _, own := out.values[name]; !own {
			out.set(name, services[name])
		}
	}
	var list []*runtimeapi.KeyValue
	for _, name := range out.order {
		list = append(list, &runtimeapi.KeyValue{Key: name, Value: []byte(out.values[name])})
	}
	return list, nil
}

// services are the variables of the services a pod sees: the API's always, those of its namespace unless it says no.
func (e Environment) services(pod *v1.Pod) map[string]string {
	seen := map[string]*v1.Service{}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	for _, s := range e.Services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone {
			continue
		}
		master := s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes"
		switch {
		case s.Namespace == pod.Namespace && links:
			seen[s.Name] = s
		case master && seen[s.Name] == nil:
			seen[s.Name] = s
		}
	}
	var list []*v1.Service
	for _, s := range seen {
		list = append(list, s)
	}
	out := map[string]string{}
	for _, v := range envvars.FromServices(list) {
		out[v.Name] = v.Value
	}
	return out
}

func (e Environment) from(ctx context.Context, pod *v1.Pod, s *v1.EnvFromSource, out *variables) error {
	data := map[string]string{}
	switch {
	case s.ConfigMapRef != nil:
		cm, err := e.Objects.ConfigMap(ctx, pod.Namespace, s.ConfigMapRef.Name)
		if err != nil {
			if apierrors.IsNotFound(err) && is(s.ConfigMapRef.Optional) {
				return nil
			}
			return err
		}
		data = cm.Data
	case s.SecretRef != nil:
		sec, err := e.Objects.Secret(ctx, pod.Namespace, s.SecretRef.Name)
		if err != nil {
			if apierrors.IsNotFound(err) && is(s.SecretRef.Optional) {
				return nil
			}
			return err
		}
		for k, v := range sec.Data {
			data[k] = string(v)
		}
	}
	keys := make([]string, 0, len(data))
	for k := range data {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		name := s.Prefix + k
		if len(validation.IsRelaxedEnvVarName(name)) == 0 {
			out.set(name, data[k])
		}
	}
	return nil
}

// valueFrom resolves one reference; skip says that it is optional and absent.
func (e Environment) valueFrom(ctx context.Context, pod *v1.Pod, c *v1.Container, s *v1.EnvVarSource) (value string, skip bool, err error) {
	switch {
	case s.FieldRef != nil:
		value, err = e.Facts.Field(pod, s.FieldRef)
	case s.ResourceFieldRef != nil:
		value, err = e.Facts.Resource(pod, s.ResourceFieldRef, c.Name)
	case s.ConfigMapKeyRef != nil:
		r := s.ConfigMapKeyRef
		cm, getErr := e.Objects.ConfigMap(ctx, pod.Namespace, r.Name)
		if getErr != nil {
			return "", apierrors.IsNotFound(getErr) && is(r.Optional), optional(getErr, r.Optional)
		}
		v, ok := cm.Data[r.Key]
		if !ok {
			return "", is(r.Optional), missing(r.Key, "ConfigMap", pod.Namespace, r.Name, r.Optional)
		}
		value = v
	case s.SecretKeyRef != nil:
		r := s.SecretKeyRef
		sec, getErr := e.Objects.Secret(ctx, pod.Namespace, r.Name)
		if getErr != nil {
			return "", apierrors.IsNotFound(getErr) && is(r.Optional), optional(getErr, r.Optional)
		}
		v, ok := sec.Data[r.Key]
		if !ok {
			return "", is(r.Optional), missing(r.Key, "Secret", pod.Namespace, r.Name, r.Optional)
		}
		value = string(v)
	default:
		err = errors.New("valueFrom names a source this node does not support")
	}
	return value, false, err
}

func optional(err error, allowed *bool) error {
	if apierrors.IsNotFound(err) && is(allowed) {
		return nil
	}
	return err
}

func missing(key, kind, namespace, name string, allowed *bool) error {
	if is(allowed) {
		return nil
	}
	return fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, namespace, name)
}

// Expand resolves $(VAR) in command and arguments.
func Expand(list []string, env []*runtimeapi.KeyValue) []string {
	values := map[string]string{}
	for _, kv := range env {
		values[kv.Key] = string(kv.Value)
	}
	lookup := expansion.MappingFuncFor(values)
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, expansion.Expand(s, lookup))
	}
	return out
}

// ExpandStrict resolves $(VAR) and refuses names that are not set: for subPathExpr.
func ExpandStrict(s string, env []*runtimeapi.KeyValue) (string, error) {
	values := map[string]string{}
	for _, kv := range env {
		values[kv.Key] = string(kv.Value)
	}
	var absent []string
	out := expansion.Expand(s, func(name string) string {
		v, ok := values[name]
		if !ok {
			absent = append(absent, name)
		}
		return v
	})
	if len(absent) > 0 {
		return "", fmt.Errorf("missing value for %s", strings.Join(absent, ", "))
	}
	return out, nil
}

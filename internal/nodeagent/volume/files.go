package volume

import (
	"context"
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubernetes/pkg/volume/util"

	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
)

type payload map[string]util.FileProjection

// writeFiles brings a volume of files to the present state of what it shows.
func (h *Host) writeFiles(ctx context.Context, pod *v1.Pod, v *v1.Volume, facts downward.Facts) error {
	files := payload{}
	var err error
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		err = h.configMap(ctx, pod.Namespace, s.Name, selection{s.Items, mode(s.DefaultMode, v1.ConfigMapVolumeSourceDefaultMode), is(s.Optional)}, files)
	case v.Secret != nil:
		s := v.Secret
		err = h.secret(ctx, pod.Namespace, s.SecretName, selection{s.Items, mode(s.DefaultMode, v1.SecretVolumeSourceDefaultMode), is(s.Optional)}, files)
	case v.DownwardAPI != nil:
		err = downwardFiles(pod, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode), facts, files)
	case v.Projected != nil:
		err = h.projected(ctx, pod, v.Projected, facts, files)
	}
	if err != nil {
		return err
	}
	dir := h.dir(pod, v)
	w, err := util.NewAtomicWriter(dir, "pod "+pod.Namespace+"/"+pod.Name+" volume "+v.Name)
	if err != nil {
		return fmt.Errorf("open volume folder: %w", err)
	}
	if err := w.Write(files, func(sub string) error { return h.own(filepath.Join(dir, sub), pod, 0o440, 0o110) }); err != nil {
		return fmt.Errorf("write files: %w", err)
	}
	return h.ownTop(dir, pod)
}

func mode(m *int32, fallback int32) int32 {
	if m != nil {
		return *m
	}
	return fallback
}

func is(b *bool) bool { return b != nil && *b }

// selection is which keys of an object become files, and how.
type selection struct {
	items    []v1.KeyToPath // none: all keys
	mode     int32
	optional bool
}

func (h *Host) configMap(ctx context.Context, namespace, name string, sel selection, out payload) error {
	cm, err := h.objects.ConfigMap(ctx, namespace, name)
	if err != nil {
		if sel.optional && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return sel.pick(data, "configmap", out)
}

func (h *Host) secret(ctx context.Context, namespace, name string, sel selection, out payload) error {
	s, err := h.objects.Secret(ctx, namespace, name)
	if err != nil {
		if sel.optional && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	return sel.pick(s.Data, "secret", out)
}

// pick takes all keys, or those that items name.
func (sel selection) pick(data map[string][]byte, kind string, out payload) error {
	if len(sel.items) == 0 {
		for k, v := range data {
			out[k] = util.FileProjection{Data: v, Mode: sel.mode}
		}
		return nil
	}
	for _, it := range sel.items {
		v, ok := data[it.Key]
		if !ok {
			if sel.optional {
				continue
			}
			return fmt.Errorf("%s references non-existent key: %s", kind, it.Key)
		}
		out[it.Path] = util.FileProjection{Data: v, Mode: mode(it.Mode, sel.mode)}
	}
	return nil
}

func downwardFiles(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, m int32, facts downward.Facts, out payload) error {
	for _, it := range items {
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = facts.Field(pod, it.FieldRef)
		case it.ResourceFieldRef != nil:
			v, err = facts.Resource(pod, it.ResourceFieldRef, "")
		}
		if err != nil {
			return err
		}
		out[it.Path] = util.FileProjection{Data: []byte(v), Mode: mode(it.Mode, m)}
	}
	return nil
}

func (h *Host) projected(ctx context.Context, pod *v1.Pod, p *v1.ProjectedVolumeSource, facts downward.Facts, out payload) error {
	m := mode(p.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		var err error
		switch s := &p.Sources[i]; {
		case s.ConfigMap != nil:
			err = h.configMap(ctx, pod.Namespace, s.ConfigMap.Name, selection{s.ConfigMap.Items, m, is(s.ConfigMap.Optional)}, out)
		case s.Secret != nil:
			err = h.secret(ctx, pod.Namespace, s.Secret.Name, selection{s.Secret.Items, m, is(s.Secret.Optional)}, out)
		case s.DownwardAPI != nil:
			err = downwardFiles(pod, s.DownwardAPI.Items, m, facts, out)
		case s.ServiceAccountToken != nil:
			var t string
			if t, err = h.tokens.Token(ctx, pod, s.ServiceAccountToken); err == nil {
				out[s.ServiceAccountToken.Path] = tokenFile(pod, t, m)
			}
		default:
			err = fmt.Errorf("projected source %d is of a kind this node does not support", i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tokenFile lets those read the token who run the pod: by group where the pod has one, by owner where all containers
// run as one user.
func tokenFile(pod *v1.Pod, token string, m int32) util.FileProjection {
	f := util.FileProjection{Data: []byte(token), Mode: m}
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		f.Mode = 0o600
	} else if uid := onlyUser(pod); uid != nil {
		f.Mode, f.FsUser = 0o600, uid
	}
	return f
}

func onlyUser(pod *v1.Pod) *int64 {
	var user *int64
	all := append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for i := range all {
		u := (*int64)(nil)
		if sc := pod.Spec.SecurityContext; sc != nil {
			u = sc.RunAsUser
		}
		if sc := all[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
			u = sc.RunAsUser
		}
		if u == nil || (user != nil && *user != *u) {
			return nil
		}
		user = u
	}
	return user
}

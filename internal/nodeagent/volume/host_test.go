package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
)

type source struct {
	maps    map[string]*v1.ConfigMap
	secrets map[string]*v1.Secret
	token   string
}

func (s *source) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if c := s.maps[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (s *source) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if c := s.secrets[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func (s *source) Token(context.Context, *v1.Pod, *v1.ServiceAccountTokenProjection) (string, error) {
	return s.token, nil
}

func (s *source) Volume(_ context.Context, _, claim string) (*v1.PersistentVolume, error) {
	if claim == "local" {
		return &v1.PersistentVolume{Spec: v1.PersistentVolumeSpec{PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: "/"}}}}, nil
	}
	return nil, errors.New("persistent volume claim " + claim + " is not bound to a volume yet")
}

func newTest(t *testing.T, spec string) (*Host, *v1.Pod, *source) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	s := &source{
		maps:    map[string]*v1.ConfigMap{"conf": {Data: map[string]string{"a": "one", "b": "two"}, BinaryData: map[string][]byte{"bin": {0}}}},
		secrets: map[string]*v1.Secret{"sec": {Data: map[string][]byte{"key": []byte("value")}}}, token: "t1",
	}
	h := NewHost(t.TempDir(), s, s, s)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1", Labels: map[string]string{"app": "web"}}}
	if err := yaml.UnmarshalStrict([]byte(spec), &pod.Spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Remove("u1"); err != nil {
			t.Error(err)
		}
		if left, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(h.root)); len(left) > 0 {
			t.Errorf("mounts are left: %v", left)
		}
	})
	return h, pod, s
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

const files = `
securityContext: {fsGroup: 4321}
volumes:
- {name: conf, configMap: {name: conf, defaultMode: 0400, items: [{key: a, path: deep/a}, {key: b, path: b, mode: 0440}]}}
- {name: sec, secret: {secretName: sec}}
- {name: opt, configMap: {name: gone, optional: true}}
- {name: me, downwardAPI: {items: [{path: labels, fieldRef: {apiVersion: v1, fieldPath: metadata.labels}}]}}
- {name: all, projected: {sources: [{serviceAccountToken: {path: token}}, {configMap: {name: conf, items: [{key: a, path: a}]}}, {downwardAPI: {items: [{path: ns, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}}]}}
containers: [{name: c, image: i}]
`

func TestFiles(t *testing.T) {
	h, pod, s := newTest(t, files)
	for range 2 { // set up twice: the second time under running containers
		if _, err := h.SetUp(t.Context(), pod, downward.Facts{}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := h.SetUp(t.Context(), pod, downward.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		m["conf"].Path + "/deep/a": "one", m["conf"].Path + "/b": "two", m["sec"].Path + "/key": "value", m["me"].Path + "/labels": `app="web"`,
		m["all"].Path + "/token": "t1", m["all"].Path + "/a": "one", m["all"].Path + "/ns": "shop",
	} {
		if got := read(t, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(m["conf"].Path+"/deep/a", &st); err != nil || st.Gid != 4321 || st.Mode&0o777 != 0o440 {
		t.Errorf("group %d, mode %o: %v", st.Gid, st.Mode, err)
	}
	var fs unix.Statfs_t
	for _, v := range []string{"sec", "all"} {
		if err := unix.Statfs(m[v].Path, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
			t.Errorf("%s is on a disk: %v", v, err)
		}
	}
	if entries, _ := filepath.Glob(m["opt"].Path + "/[^.]*"); len(entries) > 0 {
		t.Errorf("optional volume holds %v", entries)
	}
	s.token, s.maps["conf"].Data["a"] = "t2", "changed"
	if err := h.Refresh(t.Context(), pod, downward.Facts{}); err != nil {
		t.Fatal(err)
	}
	if read(t, m["all"].Path+"/token") != "t2" || read(t, m["conf"].Path+"/deep/a") != "changed" {
		t.Error("files were not refreshed")
	}
}

func TestErrorsNameTheVolume(t *testing.T) {
	h, pod, _ := newTest(t, `
volumes:
- {name: one, secret: {secretName: gone}}
- {name: two, configMap: {name: conf, items: [{key: nokey, path: x}]}}
- {name: three, nfs: {server: a, path: /b}}
- {name: four, hostPath: {path: /etc/passwd, type: Directory}}
- {name: five, persistentVolumeClaim: {claimName: unbound}}
- {name: six, persistentVolumeClaim: {claimName: local}}
containers: []
`)
	m, err := h.SetUp(t.Context(), pod, downward.Facts{})
	if err == nil || m["six"].Path != "/" {
		t.Fatalf("got %v, %v", m, err)
	}
	for _, want := range []string{
		`volume "one" : secrets "gone" not found`, `volume "two" : configmap references non-existent key: nokey`, `volume "three" : this node supports`,
		`volume "four" : hostPath type check failed: /etc/passwd is not a directory`, `volume "five" : persistent volume claim unbound is not bound`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestEmptyDir(t *testing.T) {
	h, pod, _ := newTest(t, `
securityContext: {fsGroup: 77}
volumes: [{name: disk, emptyDir: {}}, {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]
containers: [{name: c, image: i}]
`)
	m, err := h.SetUp(t.Context(), pod, downward.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range m {
		info, err := os.Stat(v.Path)
		if err != nil || info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSetgid == 0 {
			t.Errorf("%s: %v %v", v.Path, info.Mode(), err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m["mem"].Path, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Blocks)*fs.Bsize != 1<<20 {
		t.Errorf("memory volume: %+v %v", fs, err)
	}
	if err := os.WriteFile(m["disk"].Path+"/kept", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.SetUp(t.Context(), pod, downward.Facts{}); err != nil || read(t, m["disk"].Path+"/kept") != "x" {
		t.Error("the second set-up lost data", err)
	}
}

func TestSubPathStaysInside(t *testing.T) {
	h, pod, _ := newTest(t, "volumes: [{name: v, emptyDir: {}}]\ncontainers: [{name: c, image: i}]")
	m, err := h.SetUp(t.Context(), pod, downward.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	host, done, err := h.SubPath(pod.UID, "c", 0, "v", m["v"], "made/on/demand")
	if err != nil {
		t.Fatal(err)
	}
	done()
	if info, err := os.Stat(host); err != nil || !info.IsDir() {
		t.Errorf("subpath: %v", err)
	}
	if err := os.Symlink("/etc", m["v"].Path+"/escape"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"escape", "escape/made", "escape/passwd"} {
		if host, _, err := h.SubPath(pod.UID, "c", 1, "v", m["v"], path); err == nil {
			t.Errorf("%s leads out of the volume, to %s", path, host)
		}
	}
}

func TestTokenFileModes(t *testing.T) {
	user := int64(1000)
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}}
	if f := tokenFile(pod, "t", 0o644); f.Mode != 0o644 || f.FsUser != nil {
		t.Errorf("any user: %+v", f)
	}
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: &user}
	if f := tokenFile(pod, "t", 0o644); f.Mode != 0o600 || *f.FsUser != user {
		t.Errorf("one user: %+v", f)
	}
	other := int64(1001)
	pod.Spec.Containers[1].SecurityContext = &v1.SecurityContext{RunAsUser: &other}
	if f := tokenFile(pod, "t", 0o644); f.Mode != 0o644 {
		t.Errorf("two users: %+v", f)
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What only the objects of a revision together break is refused before anything is written.
func TestRefusedTogether(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	a.await(t)
	i.apply(t, a.namespace, "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {count/configmaps: \"4\"}}\n")
	a.awaitQuota(t)
	files := map[string]string{"a.yaml": configMap("a", "k", "two")}
	for _, n := range []string{"b", "c", "d", "e"} {
		files[n+".yaml"] = configMap(n, "k", "two")
	}
	from, _ := i.nodePorts()
	files["one.yaml"], files["two.yaml"] = nodePortService("one", from+40), nodePortService("two", from+40)
	st := a.awaitCommit(t, a.repo.commit(t, "too many", files), v1alpha1.Failed).Status
	if st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "allows 4 configmaps, 2 are used, and the revision makes 4 more (b, c, d, e)") ||
		!strings.Contains(st.Message, fmt.Sprintf("Service %s/two: node port %d/TCP is also that of Service %s/one", a.namespace, from+40, a.namespace)) {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
}

func nodePortService(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: NodePort, selector: {app: none}, ports: [{port: 80, nodePort: %d}]}\n", name, port)
}

// awaitQuota waits until the quota q of the namespace counts.
func (a *app) awaitQuota(t testing.TB) {
	t.Helper()
	eventually(t, 20*time.Second, "the quota counts", func() error {
		q, err := a.i.kube.CoreV1().ResourceQuotas(a.namespace).Get(ctx(t), "q", metav1.GetOptions{})
		if err == nil && len(q.Status.Used) == 0 {
			err = fmt.Errorf("not yet")
		}
		return err
	})
}

// An object that cannot be changed in place is refused with how to allow it, then replaced, and a rollback replaces it back.
func TestReplace(t *testing.T) {
	i := shared(t)
	immutable := func(value, more string) string {
		return "apiVersion: v1\nkind: ConfigMap\nimmutable: true\nmetadata: {name: a" + more + "}\ndata: {k: " + value + "}\n"
	}
	const allowed = ", annotations: {gitopsd.io/replace: allowed}"
	a := i.deploy(t, map[string]string{"a.yaml": immutable("one", "")}, withTimeout(8*time.Second))
	a.await(t)
	first := configMapUID(t, i, a.namespace, "a")
	st := a.awaitCommit(t, a.repo.commit(t, "two", map[string]string{"a.yaml": immutable("two", "")}), v1alpha1.Failed).Status
	if !strings.Contains(st.Message, "ConfigMap "+a.namespace+"/a: data: Forbidden") || !strings.Contains(st.Message, "annotate it with gitopsd.io/replace: allowed") {
		t.Errorf("message: %s", st.Message)
	}
	writeFile(t, a.repo.dir+"/a.yaml", immutable("two", allowed))
	if out, code := i.run("plan", a.namespace+"/"+a.name, "--dir", a.repo.dir); code != 2 || !strings.Contains(out, "ConfigMap "+a.namespace+"/a is replaced") {
		t.Errorf("plan: exit code %d\n%s", code, out)
	}
	a.repo.commit(t, "two, allowed", map[string]string{"a.yaml": immutable("two", allowed)})
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})
	if configMapUID(t, i, a.namespace, "a") == first {
		t.Error("it was not replaced")
	}
	bad := a.repo.commit(t, "three fails", map[string]string{"a.yaml": immutable("three", allowed), "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})
}

// A volume's claim holds data: it is never replaced, whatever its annotation says.
func TestClaimsAreNeverReplaced(t *testing.T) {
	i := shared(t)
	claim := func(mode string) string {
		return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, annotations: {gitopsd.io/replace: allowed}}\n" +
			"spec: {storageClassName: none, volumeName: \"\", accessModes: [" + mode + "], resources: {requests: {storage: 1Mi}}}\n"
	}
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "c.yaml": claim("ReadWriteOnce")})
	eventually(t, 20*time.Second, "the claim is there", func() error {
		_, err := i.kube.CoreV1().PersistentVolumeClaims(a.namespace).Get(ctx(t), "data", metav1.GetOptions{})
		return err
	})
	bad := a.repo.commit(t, "another mode", map[string]string{"c.yaml": claim("ReadWriteMany")})
	eventually(t, 20*time.Second, "it is refused", func() error {
		st := a.get(t).Status
		if st.ObservedCommit != bad || !strings.Contains(st.Message, "gitopsd never replaces it") {
			return errPhase(st)
		}
		return nil
	})
}

// A StatefulSet brings its pods out in order, and waits for one that never becomes ready: a rollback takes that one away.
func TestStuckStatefulSet(t *testing.T) {
	i := shared(t)
	set := func(image string) string {
		return "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  replicas: 1\n  selector: {matchLabels: {app: db}}\n" +
			"  template:\n    metadata: {labels: {app: db}}\n    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: " + image + "}]}\n"
	}
	a := i.deploy(t, map[string]string{"db.yaml": set(helloImage("v1"))}, podTimeout(8*time.Second))
	a.await(t)
	bad := a.repo.commit(t, "bad", map[string]string{"db.yaml": set("127.0.0.1:1/absent:v1")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	i.pod(t, a.namespace, "db-0", "runs the old image", func(p *corev1.Pod) error {
		if p.Spec.Containers[0].Image != helloImage("v1") {
			return fmt.Errorf("it has the image %s", p.Spec.Containers[0].Image)
		}
		return ready(p)
	})
}

// Pods that started while a bad revision was there may have read its configuration: they are started anew.
func TestReadersOfRestoredConfigurationRestart(t *testing.T) {
	i := shared(t)
	reader := strings.Replace(strings.ReplaceAll(goodImage(""), "web", "reader"), `}]}`, `, envFrom: [{configMapRef: {name: a}}]}]}`, 1)
	a := i.deploy(t, map[string]string{"reader.yaml": reader, "a.yaml": configMap("a", "k", "one")}, podTimeout(12*time.Second))
	a.await(t)
	before := i.pods(t, a.namespace)[0].Name
	bad := a.repo.commit(t, "bad", map[string]string{"a.yaml": configMap("a", "k", "two"), "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	i.mustKubectl(t, "-n", a.namespace, "delete", "pod", before) // the next one reads two
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	d, err := i.kube.AppsV1().Deployments(a.namespace).Get(ctx(t), "reader", metav1.GetOptions{})
	if err != nil || d.Spec.Template.Annotations["gitopsd.io/restarted-after"] == "" {
		t.Errorf("its pods were not started anew: %v, %v", d.Spec.Template.Annotations, err)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
	consistently(t, 3*time.Second, "the restart is no drift", func() error {
		if st := a.get(t).Status; st.AppliedRevision == nil || st.Reason == "Drifted" {
			return errPhase(st)
		}
		return nil
	})
}

// Where the revision before was not healthy either, going back mends nothing: the new one is held.
func TestUnhealthyBaseIsNotGoneBackTo(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"web.yaml": goodImage(""), "a.yaml": configMap("a", "k", "one")}, podTimeout(10*time.Second))
	a.await(t)
	i.mustKubectl(t, "-n", a.namespace, "create", "quota", "q", "--hard=pods=0")
	i.mustKubectl(t, "-n", a.namespace, "delete", "pod", i.pods(t, a.namespace)[0].Name)
	eventually(t, 60*time.Second, "what is applied is ill", func() error {
		if st := a.get(t).Status; st.Phase != v1alpha1.Failed || st.Reason != "NotHealthyInTime" {
			return errPhase(st)
		}
		return nil
	})
	next := a.repo.commit(t, "next", map[string]string{"a.yaml": configMap("a", "k", "two")})
	st := a.awaitCommit(t, next, v1alpha1.Held).Status
	if !strings.Contains(st.Message, "what was there before was not healthy either") {
		t.Errorf("message: %s", st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})
}

// A Job that ended and is gone is not run again: not by healing, not by the next commit, not by an undo.
func TestEndedJobs(t *testing.T) {
	i := shared(t)
	job := fmt.Sprintf("apiVersion: batch/v1\nkind: Job\nmetadata: {name: job}\nspec: {ttlSecondsAfterFinished: 0, template: {spec: {restartPolicy: Never, containers: [{name: c, image: %s, args: [args, done]}]}}}\n", toolbox())
	a := i.deploy(t, map[string]string{"job.yaml": job, "a.yaml": configMap("a", "k", "one")}, podTimeout(10*time.Second))
	a.await(t)
	gone := func() error {
		_, err := i.kube.BatchV1().Jobs(a.namespace).Get(ctx(t), "job", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the Job is there: %v", err)
	}
	eventually(t, 60*time.Second, "the Job has ended and is gone", gone)
	notAgain := func(when string) {
		t.Helper()
		consistently(t, 3*time.Second, "the Job is not run again "+when, gone)
		if st := a.get(t).Status; st.Health != v1alpha1.Healthy {
			t.Errorf("%s: %s", when, st.HealthMessage)
		}
	}
	notAgain("by healing")
	i.must(t, "sync", a.namespace+"/"+a.name)
	if out, code := i.run("drift", a.namespace+"/"+a.name); code != 0 {
		t.Errorf("drift: exit code %d\n%s", code, out)
	}
	a.repo.commit(t, "next", map[string]string{"a.yaml": configMap("a", "k", "two")})
	a.await(t)
	notAgain("by the next commit")
	bad := a.repo.commit(t, "bad", map[string]string{"a.yaml": configMap("a", "k", "three"), "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	notAgain("by an undo")
	a.repo.commit(t, "another Job", map[string]string{"web.yaml": "", "job.yaml": strings.Replace(job, "done", "again", 1)})
	a.await(t)
	if st := a.get(t).Status; st.LastSync == nil || st.LastSync.Created != 1 {
		t.Errorf("a Job that is declared otherwise has not run: %+v", st.LastSync)
	}
}

// spec.sync.pruneLimit says how much may go unasked; what hangs below an Application that deletes its objects counts.
func TestPruneLimit(t *testing.T) {
	i := shared(t)
	limit := intstr.FromInt32(0)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "v"), "b.yaml": configMap("b", "k", "v")},
		func(app *v1alpha1.Application) { app.Spec.Sync.PruneLimit = &limit })
	a.await(t)
	commit := a.repo.commit(t, "one goes", map[string]string{"b.yaml": ""})
	if st := a.awaitCommit(t, commit, v1alpha1.Failed).Status; st.Reason != "PruneNeedsConsent" || !strings.Contains(st.Message, "1 of 2") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	a.patch(t, `{"spec":{"sync":{"pruneLimit":"50%"}}}`)
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "v"})

	t.Run("what hangs below counts", func(t *testing.T) {
		files := map[string]string{}
		for n := range 6 {
			files[fmt.Sprintf("m%d.yaml", n)] = configMap(fmt.Sprint("m", n), "k", "v")
		}
		below := newRepo(t, files)
		child := fmt.Sprintf("apiVersion: gitopsd.io/v1alpha1\nkind: Application\nmetadata: {name: below}\nspec: {source: {repo: %s, ref: {branch: main}}, destination: {namespace: %s}, sync: {onDelete: Cascade}}\n", below.dir, nameOf(t))
		parent := i.deploy(t, map[string]string{"below.yaml": child, "a.yaml": configMap("a", "k", "v")})
		parent.await(t)
		eventually(t, 20*time.Second, "the child is applied", func() error {
			c, err := i.application(t, parent.namespace, "below")
			if err == nil && c.Status.Phase != v1alpha1.Applied {
				err = errPhase(c.Status)
			}
			return err
		})
		commit := parent.repo.commit(t, "the child goes", map[string]string{"below.yaml": ""})
		if st := parent.awaitCommit(t, commit, v1alpha1.Failed).Status; st.Reason != "PruneNeedsConsent" || !strings.Contains(st.Message, "7 of 8") {
			t.Errorf("%s: %s", st.Reason, st.Message)
		}
	})
}

// What the engine itself stands on is not pruned, also where a repository has declared it once.
func TestOurselvesAreNotPruned(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "crd.yaml": string(v1alpha1.CRD)})
	a.await(t)
	a.repo.commit(t, "without it", map[string]string{"crd.yaml": ""})
	st := a.await(t).Status
	if _, err := i.application(t, a.namespace, a.name); err != nil {
		t.Fatal(err)
	}
	if st.LastSync != nil && st.LastSync.Pruned > 0 {
		t.Errorf("pruned: %+v", st.LastSync)
	}
}

// An open sync is brought to its end as the account that it was begun as and where it was begun, whatever the spec says by then.
func TestRetargetedInTheMiddle(t *testing.T) {
	i := shared(t)
	name := nameOf(t)
	i.namespace(t, name+"-other")
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, withTimeout(8*time.Second), func(app *v1alpha1.Application) {
		app.Spec.Destination.ServiceAccountName = "deployer"
	})
	i.mustKubectl(t, "-n", name, "create", "serviceaccount", "deployer")
	i.mustKubectl(t, "-n", name, "create", "rolebinding", "deployer", "--clusterrole=edit", "--serviceaccount="+name+":deployer")
	i.mustKubectl(t, "-n", name, "create", "serviceaccount", "nobody")
	i.must(t, "sync", name+"/"+name)
	good := a.await(t).Status.AppliedRevision.Commit
	bad := a.repo.commit(t, "bad", map[string]string{"a.yaml": configMap("a", "k", "two"), "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	a.patch(t, fmt.Sprintf(`{"spec":{"destination":{"namespace":%q,"serviceAccountName":"nobody"}}}`, name+"-other"))
	eventually(t, 60*time.Second, "the open sync is undone, and the next one refused", func() error {
		st := a.get(t).Status
		if st.Intent != nil || st.Reason != "ObjectsRefused" || st.AppliedRevision.Commit != good || !strings.Contains(st.Message, "nobody") {
			return errPhase(st)
		}
		return nil
	})
	checkMaps(t, i, name, map[string]string{"a": "one"})
	checkMaps(t, i, name+"-other", map[string]string{})
}

// Deleting an Application in the middle of a sync takes away what the sync has made as well.
func TestDeletedInTheMiddle(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, func(app *v1alpha1.Application) { app.Spec.Sync.OnDelete = v1alpha1.Cascade })
	a.await(t)
	bad := a.repo.commit(t, "bad", map[string]string{"b.yaml": configMap("b", "k", "two"), "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	i.mustKubectl(t, "-n", a.namespace, "delete", "application", a.name, "--wait=false")
	eventually(t, 30*time.Second, "all is gone", func() error {
		list, err := i.kube.AppsV1().Deployments(a.namespace).List(ctx(t), metav1.ListOptions{})
		if left := i.configMaps(t, a.namespace); err == nil && len(left)+len(list.Items) > 0 {
			err = fmt.Errorf("left are %v and %d Deployments", left, len(list.Items))
		}
		return err
	})
}

// A status from a backup names objects that are others by now: what has another UID is not pruned.
func TestStatusFromABackup(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "b.yaml": configMap("b", "k", "one")})
	backup := a.await(t).Status
	name := a.namespace + "/" + a.name
	a.repo.commit(t, "without b", map[string]string{"b.yaml": ""})
	a.await(t)
	i.apply(t, a.namespace, strings.Replace(configMap("b", "k", "theirs"), "name: b", "name: b, labels: {gitopsd.io/application: "+a.namespace+"."+a.name+"}", 1))
	i.must(t, "suspend", name)
	a.awaitCommit(t, a.repo.head(t), v1alpha1.Suspended)
	i.kill9(t) // nothing is remembered but the status
	i.start(t)
	obj, err := i.dyn.Resource(appResource).Namespace(a.namespace).Get(ctx(t), a.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v1alpha1.Application{Status: backup})
	if err != nil {
		t.Fatal(err)
	}
	obj.Object["status"] = content["status"]
	if _, err := i.dyn.Resource(appResource).Namespace(a.namespace).UpdateStatus(ctx(t), obj, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	i.must(t, "resume", name)
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "b": "theirs"})
}

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// What cannot be deleted holds no newer commit up: that may be the one that mends it. It stays in the inventory, and goes when it can.
func TestAPruneThatCannotBe(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "b.yaml": configMap("b", "k", "one")}, func(app *v1alpha1.Application) {
		app.Spec.Destination.ServiceAccountName = "deployer"
		i.mustKubectl(t, "-n", app.Namespace, "create", "serviceaccount", "deployer")
		i.mustKubectl(t, "-n", app.Namespace, "create", "role", "deployer", "--resource=configmaps", "--verb=get,list,watch,create,patch,update")
		i.mustKubectl(t, "-n", app.Namespace, "create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+app.Namespace+":deployer")
	})
	a.await(t)
	stuck := a.repo.commit(t, "without b", map[string]string{"b.yaml": ""})
	st := a.awaitCommit(t, stuck, v1alpha1.Pruning).Status
	eventually(t, 20*time.Second, "it says what holds it up", func() error {
		if st = a.get(t).Status; !strings.Contains(st.Message, "forbidden") || !strings.Contains(st.Message, "ConfigMap") {
			return errPhase(st)
		}
		return nil
	})
	next := a.repo.commit(t, "two", map[string]string{"a.yaml": configMap("a", "k", "two")})
	eventually(t, 20*time.Second, "the next commit is applied all the same", func() error {
		if st = a.get(t).Status; st.AppliedRevision.Commit != next || !holds(st, "b") {
			return errPhase(st)
		}
		return nil
	})
	checkMaps(t, i, a.namespace, map[string]string{"a": "two", "b": "one"})
	i.mustKubectl(t, "-n", a.namespace, "create", "rolebinding", "edit", "--clusterrole=edit", "--serviceaccount="+a.namespace+":deployer")
	i.must(t, "sync", a.namespace+"/"+a.name)
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})
}

// An object that one commit moves to another Application, which cannot be synced yet, stays where it is until that one can, however often
// the first is looked at.
func TestAMoveThatWaits(t *testing.T) {
	i := anyCluster(t)
	r, apps := i.twoFolders(t, func(b *v1alpha1.Application) {
		b.Spec.Sync.Windows = []v1alpha1.SyncWindow{{Kind: "Deny", Schedule: "* * * * *", Duration: metav1.Duration{Duration: 2 * time.Minute}}}
	})
	a, b := apps["a"], apps["b"]
	name := a.namespace
	a.await(t)
	b.awaitCommit(t, r.head(t), v1alpha1.Waiting)
	i.must(t, "sync", name+"/b", "--ignore-windows")
	uid := configMapUID(t, i, name, "moves")
	commit := r.commit(t, "moves", map[string]string{"a/moves.yaml": "", "b/moves.yaml": configMap("moves", "k", "two")})
	a.awaitCommit(t, commit, v1alpha1.Applied)
	for range 2 {
		i.must(t, "sync", name+"/a")
		if st := a.get(t).Status; !holds(st, "moves") {
			t.Fatalf("it left the inventory of the first before the second has it: %+v", st.Inventory)
		}
	}
	if !onPlain { // a new life knows what the second asks for once it has looked at it
		i.kill9(t)
		i.start(t)
		i.must(t, "sync", name+"/a")
	}
	checkMaps(t, i, name, map[string]string{"own-a": "v", "own-b": "v", "moves": "one"})
	i.must(t, "sync", name+"/b", "--ignore-windows")
	checkMaps(t, i, name, map[string]string{"own-a": "v", "own-b": "v", "moves": "two"})
	if got := configMapUID(t, i, name, "moves"); got != uid {
		t.Errorf("it was made anew: %s was %s", got, uid)
	}
	eventually(t, 20*time.Second, "the first lets go", func() error {
		if st := a.get(t).Status; holds(st, "moves") {
			return errPhase(st)
		}
		return nil
	})
}

// An object that one commit moves to an Application which waits for others, even for the one that gives it up, is not deleted meanwhile.
func TestAMoveToADependent(t *testing.T) {
	i := anyCluster(t)
	r, apps := i.twoFolders(t, func(b *v1alpha1.Application) { b.Spec.DependsOn = []v1alpha1.Dependency{{Name: "a"}} })
	a, b := apps["a"], apps["b"]
	b.await(t)
	uid := configMapUID(t, i, a.namespace, "moves")
	late := strings.Replace(configMap("own-a", "k", "v"), "metadata: {", `metadata: {annotations: {gitopsd.io/health: "has(data.ok)"}, `, 1)
	commit := r.commit(t, "moves", map[string]string{"a/own.yaml": late, "a/moves.yaml": "", "b/moves.yaml": configMap("moves", "k", "two")})
	a.awaitCommit(t, commit, v1alpha1.Verifying)
	b.awaitCommit(t, commit, v1alpha1.Waiting)
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "own-a", "--type=merge", "-p", `{"data":{"ok":"yes"}}`)
	b.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"own-a": "v", "own-b": "v", "moves": "two"})
	if got := configMapUID(t, i, a.namespace, "moves"); got != uid {
		t.Errorf("it was made anew: %s was %s", got, uid)
	}
}

// A revision that is undone while a newer commit is refused is told like any other: the newer one has the status' word.
func TestRolledBackBehindARefusedCommit(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, withTimeout(12*time.Second))
	a.await(t)
	bad := a.repo.commit(t, "bad", map[string]string{"a.yaml": configMap("a", "k", "two"), "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	a.awaitCommit(t, a.repo.commit(t, "cannot be read", map[string]string{"b.yaml": "{"}), v1alpha1.Failed)
	eventually(t, 20*time.Second, "the event is there", func() error {
		list, err := i.kube.CoreV1().Events(a.namespace).List(ctx(t), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == "RolledBack" && strings.Contains(e.Message, "commit "+bad[:8]) {
				return nil
			}
		}
		return fmt.Errorf("%d events, none of them", len(list.Items))
	})
	eventually(t, 20*time.Second, "the status says it too, which is written after the event", func() error {
		if st := a.get(t).Status; st.Phase != v1alpha1.Failed || st.Rejected == nil || st.Rejected.Revision.Commit != bad || st.Intent != nil {
			return errPhase(st)
		}
		return nil
	})
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
}

// What spec.sync.prune: false has left is as much of a deletion as what a commit brings, when it is switched on: a mass waits for consent, and
// is one entry of the ledger. Meanwhile drift is healed.
func TestWhatWasLeftIsGuardedToo(t *testing.T) {
	i := anyCluster(t)
	files, gone := map[string]string{"m.yaml": configMap("m", "k", "v")}, map[string]string{}
	left := map[string]string{"m": "v"}
	for n := range 7 {
		name := fmt.Sprint("m", n)
		files[name+".yaml"], left[name], gone[name+".yaml"] = configMap(name, "k", "v"), "v", ""
	}
	never := false
	a := i.deploy(t, files, func(app *v1alpha1.Application) { app.Spec.Sync.Prune = &never })
	a.await(t)
	commit := a.repo.commit(t, "most of it goes", gone)
	a.awaitCommit(t, commit, v1alpha1.Applied)
	a.patch(t, `{"spec":{"sync":{"prune":true}}}`)
	st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
	if st.Reason != "PruneNeedsConsent" || !strings.Contains(st.Message, "7 of 8") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "m", "-p", `{"data":{"k":"theirs"}}`)
	eventually(t, 10*time.Second, "drift is healed while consent is awaited", func() error {
		if got := i.configMaps(t, a.namespace)["m"]; got != "v" {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	checkMaps(t, i, a.namespace, left)
	i.must(t, "sync", a.namespace+"/"+a.name, "--allow-prune")
	checkMaps(t, i, a.namespace, map[string]string{"m": "v"})
	if out := i.must(t, "audit", "export", "--app", a.namespace+"/"+a.name); strings.Count(out, `"LeftBefore"`) != 1 || !strings.Contains(out, "agrees that commit "+commit) {
		t.Errorf("the ledger says\n%s", out)
	}
}

// A rollback by hand asks for consent like any other deletion, is told each time, and needs no repository.
func TestRollbackWithoutGit(t *testing.T) {
	i := anyCluster(t)
	files := map[string]string{}
	for n := range 7 {
		files[fmt.Sprintf("m%d.yaml", n)] = configMap(fmt.Sprint("m", n), "k", "v")
	}
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	first := a.await(t).Status.AppliedRevision.Commit
	a.repo.commit(t, "many", files)
	a.await(t)
	name := a.namespace + "/" + a.name
	if err := os.Rename(a.repo.dir, a.repo.dir+".away"); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if out, code := i.run("rollback", name, "--to", first[:8]); round == 0 && (code != 1 || !strings.Contains(out, "PruneNeedsConsent")) {
			t.Errorf("exit code %d\n%s", code, out)
		}
		if out, code := i.run("sync", name, "--allow-prune"); code != 0 {
			t.Fatalf("exit code %d\n%s", code, out)
		}
		checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
		if round == 0 {
			if err := os.Rename(a.repo.dir+".away", a.repo.dir); err != nil {
				t.Fatal(err)
			}
			i.must(t, "resume", name)
			a.await(t)
		}
	}
	out := i.must(t, "audit", "export", "--app", name)
	if strings.Count(out, `"Pinned"`) != 2 || strings.Count(out, `"Resumed"`) != 1 {
		t.Errorf("the ledger says\n%s", out)
	}
}

// An Application that is deleted with its objects in the middle of a sync gives back what the unfinished revision had only begun to take over,
// and says what holds the end up.
func TestDeletedWhileTakingOver(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, func(app *v1alpha1.Application) { app.Spec.Sync.OnDelete = v1alpha1.Cascade })
	a.await(t)
	i.apply(t, a.namespace, configMap("theirs", "k", "theirs"))
	held := strings.Replace(configMap("held", "k", "v"), "metadata: {", "metadata: {finalizers: [example.org/held], ", 1)
	bad := a.repo.commit(t, "bad", map[string]string{"b.yaml": configMap("theirs", "k", "ours"), "held.yaml": held, "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	i.mustKubectl(t, "-n", a.namespace, "delete", "application", a.name, "--wait=false")
	eventually(t, 30*time.Second, "it says what holds it up", func() error {
		if st := a.get(t).Status; !strings.Contains(st.Message, "held") || !strings.Contains(st.Message, "example.org/held") {
			return errPhase(st)
		}
		return nil
	})
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "held", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	eventually(t, 30*time.Second, "only what was theirs is left, as it was", func() error {
		if got := i.configMaps(t, a.namespace); len(got) != 1 || got["theirs"] != "theirs" {
			return fmt.Errorf("there is %v", got)
		}
		_, err := i.application(t, a.namespace, a.name)
		if err == nil {
			return fmt.Errorf("the Application is there")
		}
		return nil
	})
	if out := i.must(t, "audit", "export", "--app", a.namespace+"/"+a.name); strings.Count(out, `"Cascade"`) != 1 {
		t.Errorf("the ledger says\n%s", out)
	}
}

// Where the API's store comes from a backup and the ledger does not, the status decides: a sync that was open then is brought to its end once
// more, and nothing counts as applied because the ledger says so.
func TestStoreOlderThanTheLedger(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "b.yaml": configMap("b", "k", "one")})
	a.await(t)
	awaited := strings.Replace(configMap("a", "k", "two"), "metadata: {", `metadata: {annotations: {gitopsd.io/health: "has(data.ok)"}, `, 1)
	commit := a.repo.commit(t, "two", map[string]string{"a.yaml": awaited, "b.yaml": ""})
	backup := a.awaitCommit(t, commit, v1alpha1.Verifying).Status
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "a", "--type=merge", "-p", `{"data":{"ok":"yes"}}`)
	a.await(t)
	i.must(t, "suspend", a.namespace+"/"+a.name)
	a.awaitCommit(t, commit, v1alpha1.Suspended)
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "a", "--type=merge", "-p", `{"data":{"k":"one"}}`)
	obj := a.get(t)
	obj.Status = backup
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.dyn.Resource(appResource).Namespace(a.namespace).UpdateStatus(ctx(t), &unstructured.Unstructured{Object: content}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the open sync comes to its end", func() error {
		if st := a.get(t).Status; st.Intent != nil || st.AppliedRevision == nil || st.AppliedRevision.Commit != commit {
			return errPhase(st)
		}
		return nil
	})
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})
	ends := 0
	for line := range strings.Lines(i.must(t, "audit", "export", "--app", a.namespace+"/"+a.name)) {
		if strings.Contains(line, `"kind":"Sync"`) && strings.Contains(line, `"to":"`+commit) {
			ends++
		}
	}
	if ends != 2 {
		t.Errorf("the ledger tells %d ends of that commit's sync, of two", ends)
	}
}

// An undo that cannot be ended says so, object by object, and never success; it ends by itself when it can.
func TestIncomplete(t *testing.T) {
	i := anyCluster(t)
	rights := func(namespace, verbs string) {
		i.apply(t, namespace, fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [%s]}]
`, verbs))
	}
	const all = "get, list, watch, create, patch, update, delete"
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, withTimeout(6*time.Second), func(app *v1alpha1.Application) {
		app.Spec.Destination.ServiceAccountName = "deployer"
		i.mustKubectl(t, "-n", app.Namespace, "create", "serviceaccount", "deployer")
		rights(app.Namespace, all)
		i.mustKubectl(t, "-n", app.Namespace, "create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+app.Namespace+":deployer")
	})
	good := a.await(t).Status.AppliedRevision.Commit
	never := strings.Replace(configMap("new", "k", "two"), "metadata: {", `metadata: {annotations: {gitopsd.io/health: "has(data.never)"}, `, 1)
	bad := a.repo.commit(t, "bad", map[string]string{"a.yaml": configMap("a", "k", "two"), "new.yaml": never})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	rights(a.namespace, strings.TrimSuffix(all, ", delete"))
	st := a.awaitCommit(t, bad, v1alpha1.Incomplete).Status
	if !strings.Contains(st.Message, "ConfigMap "+a.namespace+"/new") || !strings.Contains(st.Message, "cannot delete") {
		t.Errorf("message: %s", st.Message)
	}
	if out, code := i.run("sync", a.namespace+"/"+a.name); code != 1 || !strings.Contains(out, "Incomplete") {
		t.Errorf("sync: exit code %d\n%s", code, out)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "new": "two"})
	rights(a.namespace, all)
	st = a.awaitCommit(t, bad, v1alpha1.RolledBack).Status
	if st.AppliedRevision.Commit != good {
		t.Errorf("applied is %s", st.AppliedRevision.Commit)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
}

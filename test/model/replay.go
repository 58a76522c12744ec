package model

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gitopsd/gitopsd/internal/ledger"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// replayTimeout is sync.timeout where time is real: long enough for what does not wait for it, short enough to be waited for.
const replayTimeout = 20 * time.Second

// timed says that a state is one that sync.timeout has brought. Where the Application is suspended by then, the reason says that, and the end says it.
func timed(states []State) bool {
	for n, s := range states {
		awaited := n > 0 && strings.HasPrefix(states[n-1].Intent, "Verifying")
		rolledBack := len(s.Ends) > 0 && strings.HasPrefix(s.Ends[len(s.Ends)-1], "RolledBack")
		if s.Reason == "NotHealthyInTime" || awaited && rolledBack && s.Intent == "" {
			return true
		}
	}
	return false
}

// Replayable says whether a history can be waited for where time is real: where sync.timeout is short, nothing else may take as long.
func Replayable(p Played) bool {
	for n, s := range p.States[1:] {
		if awaits := strings.HasPrefix(s.Intent, "Verifying"); awaits && strings.HasPrefix(p.States[n].Intent, "Verifying") && timed(p.States) {
			return false
		}
	}
	return true
}

// Replay does the steps of a history in a namespace of a real API server that has Kubernetes' controllers and no node, and waits after each
// until the state is the one that Play found. It returns what differs. Where time is real there are more writes of the status, so a fault
// has to meet the effect that it met in Play, and none if it met none.
func (s *Stage) Replay(ctx context.Context, h History, namespace string, client *rest.Config, played Played) error {
	var late atomic.Bool
	dir := filepath.Join(s.dir, "ledger-"+namespace)
	book, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		return err
	}
	wait := timeout
	if timed(played.States) {
		wait = replayTimeout
	}
	d := &driver{namespace: namespace, repo: newRepo(namespace), contents: owned{s.files, namespace + "."}, ledger: book, trace: newTrace(), client: client,
		timeout: wait, runLate: func() { late.Store(true) }}
	defer book.Close()
	if err := d.prepare(ctx, h.Policy); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kubelet := make(chan error, 1)
	go func() { kubelet <- readyPods(ctx, client, namespace, late.Load) }()
	d.start()
	defer func() { d.engine.end() }()
	for n, step := range h.Steps {
		if step.Fault = nil; played.Met[n] != "" {
			step.Fault = &Fault{N: 1, Kind: h.Steps[n].Fault.Kind, effect: played.Met[n]}
		}
		if err := d.do(ctx, step); err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
		if err := d.await(ctx, dir, played.States[n], played.Met[n]); err != nil {
			return fmt.Errorf("step %d (%s): %w\n%s", n, step.Do, err, d.trace)
		}
	}
	if err := d.mend(ctx); err != nil {
		return err
	}
	if err := d.await(ctx, dir, played.States[len(h.Steps)], ""); err != nil {
		return fmt.Errorf("the end: %w\n%s", err, d.trace)
	}
	cancel()
	return <-kubelet
}

// await waits until the state is as it is to be, and the step's fault has met what it is to meet.
func (d *driver) await(ctx context.Context, book string, want State, fault string) error {
	ctx, cancel := context.WithTimeout(ctx, 6*replayTimeout)
	defer cancel()
	for {
		var entries []ledger.Entry
		for e, err := range ledger.Read(book) {
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
		got, err := d.state(ctx, entries, &want)
		// What the step was to cause has come; what trails behind it is not to meet the next step's fault.
		met := d.engine.gate.hasMet()
		if err == nil && got.String() == want.String() && met == fault && d.engine.gate.quiet() > time.Second {
			return nil
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the fault met %q and the state is\n%s\n(%v); on the fake API it met %q and was\n%s", met, got, err, fault, want)
		}
	}
}

// readyPods stands in for a node: pods become ready whose images run, until ctx ends.
func readyPods(ctx context.Context, client *rest.Config, namespace string, late func() bool) error {
	kube, err := kubernetes.NewForConfig(client)
	if err != nil {
		return err
	}
	pods := kube.CoreV1().Pods(namespace)
	body, err := json.Marshal(map[string]any{"status": map[string]any{"phase": corev1.PodRunning,
		"conditions": []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}})
	if err != nil {
		return err
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			continue // asked again
		}
		for _, p := range list.Items {
			if p.Status.Phase == corev1.PodPending && runs(p.Spec.Containers[0].Image, late()) {
				_, _ = pods.Patch(ctx, p.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "node"}, "status") // it may be gone; tried again if not
			}
		}
	}
}

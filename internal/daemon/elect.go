package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaderLease is the Lease that the leading process holds.
const leaderLease = "gitopsd"

// elect runs lead whenever this process leads, until ctx ends or lead fails. The lease only says who works; that nobody else's write
// survives is the turn's doing.
func (s *server) elect(ctx context.Context, lead func(context.Context) error) error {
	host, _ := os.Hostname()
	identity := host + "_" + string(uuid.NewUUID())
	for ctx.Err() == nil {
		err := s.leadOnce(ctx, identity, lead)
		if err != nil && !errors.Is(err, apply.ErrFenced) {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		s.log.Warn("another process leads; waiting for its end")
		select {
		case <-ctx.Done():
		case <-time.After(s.LeaseDuration * 2 / 15): // as often as the lease is asked for
		}
	}
	return nil
}

// leadOnce waits until this process leads and returns when it no longer does. The lease is given back after lead has returned, not before.
func (s *server) leadOnce(ctx context.Context, identity string, lead func(context.Context) error) error {
	election, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	stop := context.AfterFunc(ctx, resign) // while it only waits
	led := make(chan error, 1)
	var begun atomic.Bool // by the one of us two who comes first: lead, or the end before it
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: leaderLease}, Client: s.kube.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity}},
		LeaseDuration: s.LeaseDuration, RenewDeadline: s.LeaseDuration * 2 / 3, RetryPeriod: s.LeaseDuration * 2 / 15,
		Name: leaderLease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(election context.Context) {
				if stop(); !begun.CompareAndSwap(false, true) {
					return
				}
				work, cancel := context.WithCancel(election)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				led <- lead(work)
				resign()
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(id string) {
				if id != identity && id != "" {
					s.log.Info("another process leads", "process", id)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("prepare the election of a leader: %w", err)
	}
	elector.Run(election)
	if ctx.Err() != nil && begun.CompareAndSwap(false, true) {
		return nil
	}
	err = <-led
	s.giveBack(context.WithoutCancel(ctx), identity)
	return err
}

// giveBack ends this process's hold of the lease, so that nobody waits for it to run out. (The library's own way looks only at what it
// knew: a process that slept would take the lease from the one that holds it by now.)
func (s *server) giveBack(ctx context.Context, identity string) {
	ctx, cancel := context.WithTimeout(ctx, s.LeaseDuration)
	defer cancel()
	leases := s.kube.CoordinationV1().Leases(s.Namespace)
	lease, err := leases.Get(ctx, leaderLease, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != identity {
		return
	}
	nobody, second := "", int32(1)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &nobody, &second
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		s.log.Warn("the lease runs out by itself, for it could not be given back", "err", err)
	}
}

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/intent"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// ended says how an intent that is still open has ended by the ledger, which is written before the status: a crash, or a status that
// could not be written, may fall in between. What has ended so cannot end otherwise.
func (t *turn) ended(in *v1alpha1.Intent) intent.Phase {
	for _, end := range []intent.Phase{intent.Applied, intent.RolledBack} {
		if t.cfg.Ledger.Has(in.ID + "/" + string(end)) {
			return end
		}
	}
	return ""
}

// resume brings an intent that has ended by the ledger to where it was then, if the cluster is there too. If it is not, the API's store is
// older than the ledger, for it comes from a backup: the status decides, and the intent goes on under another name, so that the ledger tells
// both ends.
func (t *turn) resume(ctx context.Context, in *v1alpha1.Intent, objects []apply.Object) error {
	phase, end := intent.Phase(in.Phase), t.ended(in)
	switch {
	case end == "" || end == intent.Applied && phase == intent.Pruning:
		return nil
	case end == intent.RolledBack && (phase == intent.Undoing || phase == intent.Incomplete):
		return nil // undone once more, which changes nothing
	case end == intent.Applied && (phase == intent.Applying || phase == intent.Verifying || phase == intent.Held):
		proof, err := t.target.Prove(ctx, t.revision(objects))
		if err != nil {
			return err
		}
		if proof.Plan.Count(diff.Create)+proof.Plan.Count(diff.Update) > 0 {
			break
		}
		if phase == intent.Applying {
			phase = intent.Next(phase, intent.Written, t.policy())
		}
		in.Phase = string(intent.Next(phase, intent.Arrived, t.policy()))
		t.arrived(in, objects)
		return nil
	}
	if err := t.imageAnew(ctx, in, objects); err != nil {
		return err
	}
	t.cfg.Log.Warn("the ledger is ahead of the cluster, which comes from a backup: the open sync is brought to its end once more", "app", keyOf(t.app), "intent", in.ID, "ended", end)
	in.ID = string(uuid.NewUUID())
	t.w.owns = in.ID
	return t.write(ctx, t.app, t.w)
}

// imageAnew adds what the objects of an intent are like now to what it knows of them, which may have been swept since the backup.
func (t *turn) imageAnew(ctx context.Context, in *v1alpha1.Intent, objects []apply.Object) error {
	before, err := t.images(in)
	if err != nil && !errors.Is(err, intent.ErrAbsent) {
		return err
	}
	proof, err := t.target.Prove(ctx, t.revision(objects))
	if err != nil {
		return err
	}
	in.Images, err = t.putImages(apply.Union(before, proof.Images(objects)))
	return err
}

// handBack gives back what belonged to somebody else before an intent that was superseded took it over, and what neither the revision nor
// the base has: it is in the inventory, and to prune it would delete what was never ours.
func (t *turn) handBack(ctx context.Context, in *v1alpha1.Intent, images []apply.Image, objects []apply.Object) error {
	foreign, err := t.foreign(in, images, objects)
	if err != nil || len(foreign) == 0 {
		return err
	}
	if err := t.write(ctx, t.app, t.w); err != nil {
		return fmt.Errorf("write the intent: %w", err)
	}
	st := &t.app.Status
	if _, err := t.target.Undo(ctx, apply.Undoing{Images: foreign, Held: heldOf(st.Inventory)}); err != nil {
		return err
	}
	left := slices.DeleteFunc(heldOf(st.Inventory), func(h apply.Held) bool {
		return slices.ContainsFunc(foreign, func(i apply.Image) bool { return i.Held.Ref == h.Ref })
	})
	st.Inventory = inventoryOf(left)
	return nil
}

func (t *turn) foreign(in *v1alpha1.Intent, images []apply.Image, objects []apply.Object) ([]apply.Image, error) {
	foreign := slices.DeleteFunc(slices.Clone(images), func(i apply.Image) bool { return !i.Foreign(t.target) || has(objects, i) })
	if len(foreign) == 0 || in.Base == nil {
		return foreign, nil
	}
	base, err := t.contentOf(*in.Base)
	return slices.DeleteFunc(foreign, func(i apply.Image) bool { return has(base, i) }), err
}

func has(objects []apply.Object, i apply.Image) bool {
	return slices.ContainsFunc(objects, func(o apply.Object) bool { return o.Ref() == i.Held.Ref })
}

// refreshed is the inventory with the UIDs that the objects have by now: of one that was made again while the status could not be
// written, the status names the UID of its predecessor.
func refreshed(inventory []v1alpha1.ObjectReference, proof *apply.Proof) []v1alpha1.ObjectReference {
	held := heldOf(inventory)
	for n, h := range held {
		if live := proof.Live(h.Ref); live != nil && live.GetDeletionTimestamp() == nil {
			held[n].UID = string(live.GetUID())
		}
	}
	return inventoryOf(held)
}

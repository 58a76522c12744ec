package apply

import (
	"context"
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestTransient(t *testing.T) {
	invalid := &Refusal{Err: &apiMessage{"spec.x: wrong", apierrors.NewInvalid(schema.GroupKind{Kind: "X"}, "x", nil)}}
	away := &Refusal{Err: errors.New("connection refused")}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"no answer":           {away, true},
		"overload":            {apierrors.NewTooManyRequests("later", 1), true},
		"somebody else":       {apierrors.NewConflict(schema.GroupResource{}, "x", errors.New("changed")), true},
		"the API's own fault": {apierrors.NewInternalError(errors.New("etcd")), true},
		"the daemon stops":    {fmt.Errorf("x: %w", context.Canceled), true},
		"a wrong field":       {invalid, false},
		"no right to it":      {apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("quota")), false},
		"both":                {errors.Join(away, invalid), false},
		"two that pass":       {errors.Join(away, away), true},
	} {
		if got := Transient(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

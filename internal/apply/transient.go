package apply

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Transient says whether trying again may help without anybody changing the revision: the API did not answer, was
// overloaded, or somebody else wrote at the same time. Of several errors one that is not transient decides.
func Transient(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			if !Transient(e) {
				return false
			}
		}
		return true
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return apierrors.IsConflict(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
			apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || status.Status().Code >= 500
	}
	var message *apiMessage
	return !errors.As(err, &message) // what is neither the API's word nor ours is the network's
}

// errTransient stands for an error that may help itself and whose words must not be shown.
type errTransient struct{ text string }

func (e errTransient) Error() string { return e.text }

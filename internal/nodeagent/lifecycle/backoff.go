package lifecycle

import (
	"sort"
	"time"
)

// Delays of kubelet, which users know.
const (
	crashDelay    = 10 * time.Second
	crashDelayMax = 5 * time.Minute
	crashReset    = 10 * time.Minute
	// A failure is shown by its own name for this long, then as the backoff it leads to.
	failureShown = 3 * time.Second
)

// Reasons of containers that wait.
const (
	ReasonCreating          = "ContainerCreating"
	ReasonInitializing      = "PodInitializing"
	ReasonCrashLoop         = "CrashLoopBackOff"
	ReasonErrImagePull      = "ErrImagePull"
	ReasonImagePullBackOff  = "ImagePullBackOff"
	ReasonInvalidImageName  = "InvalidImageName"
	ReasonErrImageNeverPull = "ErrImageNeverPull"
	ReasonConfigError       = "CreateContainerConfigError"
	ReasonCreateError       = "CreateContainerError"
	ReasonRunError          = "RunContainerError"
	ReasonPostStartError    = "PostStartHookError"
)

// waiting says whether a container that ended at that time still rests, and until when.
func (b Backoff) waiting(ended, now time.Time) (time.Time, bool) {
	if b.Delay == 0 || ended.Sub(b.Updated) > crashReset {
		return time.Time{}, false
	}
	at := ended.Add(b.Delay)
	return at, now.Before(at)
}

// next is the backoff after one more start.
func (b Backoff) next(ended, now time.Time) Backoff {
	if b.Delay == 0 || ended.Sub(b.Updated) > crashReset {
		return Backoff{Delay: crashDelay, Updated: now}
	}
	return Backoff{Delay: min(2*b.Delay, crashDelayMax), Updated: now}
}

// retryAt is when to try again what failed.
func (f Failure) retryAt() time.Time {
	switch f.Reason {
	case ReasonErrImagePull, ReasonCreateError, ReasonRunError:
		return f.At.Add(doubling(crashDelay, crashDelayMax, f.Count))
	case ReasonInvalidImageName, ReasonErrImageNeverPull:
		return f.At.Add(crashDelay)
	case ReasonPostStartError:
		return f.At
	default: // configuration, volumes, sandbox, cleaning up: often repaired by others within moments
		return f.At.Add(doubling(500*time.Millisecond, crashDelay, f.Count))
	}
}

func doubling(first, most time.Duration, count int) time.Duration {
	for i := 1; i < count && first < most; i++ {
		first *= 2
	}
	return min(first, most)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

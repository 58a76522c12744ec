package apply

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// patience is how much longer a look waits for what others are about to do: the wait begins with the first question, and is shared by all
// that ask. A look occupies a worker, so what takes longer is waited for by coming back.
type patience struct{ until time.Time }

const longEnough = 2 * time.Second

var errPatience = errors.New("it takes longer than is waited for")

// await asks until it is done; at least once.
func (p *patience) await(ctx context.Context, done func() (bool, error)) error {
	if p.until.IsZero() {
		p.until = time.Now().Add(longEnough)
	}
	return wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		ok, err := done()
		if err == nil && !ok && !time.Now().Before(p.until) {
			err = errPatience
		}
		return ok, err
	})
}

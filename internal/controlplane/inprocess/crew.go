package inprocess

import "time"

// rest is how long a goroutine waits for its next request.
const rest = time.Second

// crew are goroutines that serve one request after another: Kubernetes' handlers call deep, and the stack of a new goroutine is copied four times until it
// holds that. There are as many as requests at once, and none a second after.
type crew chan func()

// do has the work done at once, beside the caller.
func (c crew) do(work func()) {
	select {
	case c <- work:
	default:
		go c.serve(work)
	}
}

func (c crew) serve(work func()) {
	for {
		work()
		work = nil // and what it holds
		select {
		case work = <-c:
		case <-time.After(rest):
			return
		}
	}
}

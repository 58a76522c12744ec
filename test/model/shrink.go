package model

import "slices"

// Shrink drops steps, and faults, of a history that fails for as long as it fails without them.
func Shrink(h History, fails func(History) bool) History {
	for again := true; again; {
		again = false
		for n := len(h.Steps) - 1; n >= 0; n-- {
			less := h
			less.Steps = slices.Delete(slices.Clone(h.Steps), n, n+1)
			if len(less.Steps) > 0 && fails(less) {
				h, again = less, true
				continue
			}
			if h.Steps[n].Fault == nil {
				continue
			}
			less.Steps = slices.Clone(h.Steps)
			less.Steps[n].Fault = nil
			if fails(less) {
				h, again = less, true
			}
		}
	}
	return h
}

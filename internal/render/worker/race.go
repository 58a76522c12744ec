//go:build race

package worker

// raceEnabled: the race detector's runtime maps more memory than any limit allows.
const raceEnabled = true

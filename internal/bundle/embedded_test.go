//go:build bundle

package bundle

import "testing"

func TestEmbeddedPrograms(t *testing.T) {
	p, err := Unpack(t.TempDir())
	check(t, err)
	check(t, p.Check(Containerd, Shim, Runtime, Bridge, Pause))
}

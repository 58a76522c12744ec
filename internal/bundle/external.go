//go:build !bundle

package bundle

// Embedded tells whether this build carries the programs.
const Embedded = false

// Unpack returns the folder that GITOPSD_BUNDLE_DIR names; this build has nothing to unpack into dir.
func Unpack(dir string) (Programs, error) { return fromEnvironment() }

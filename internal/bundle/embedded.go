//go:build bundle

package bundle

import _ "embed"

//go:embed bundle.manifest
var embeddedManifest string

//go:embed bundle.tar.zst
var embeddedArchive string

// Embedded tells whether this build carries the programs.
const Embedded = true

// Unpack makes a folder below dir hold the programs and returns it. It is idempotent, and safe to be cut off at any instant.
func Unpack(dir string) (Programs, error) {
	return archive{manifest: embeddedManifest, tarZstd: embeddedArchive}.unpack(dir)
}

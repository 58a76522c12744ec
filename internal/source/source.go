// Package source turns a URL and a ref into a Snapshot: a revision and its files as an immutable fs.FS.
//
// A Store keeps one bare mirror for each repository below its folder, shared by everyone who uses that
// repository, and fetches into it at most once at a time. Subscribe follows a ref by polling, and local
// repositories by file notifications too; Snapshot answers once; At answers from the mirror alone.
//
// Artifacts of registries and charts of Helm repositories come as archives, which are kept by digest and read in place; Chart
// fetches those that the files of others ask for.
//
// Everything a remote sends is hostile: sizes, counts and times are limited, packs are checked before they are
// indexed, a tree is complete before its commit becomes visible, and no file of a repository is ever written
// to disk by its name. Host keys are always checked, and credentials go to the origin they were given for and
// to no other. The package runs no git program, knows nothing of manifests and has no opinion on what a commit
// means.
package source

import (
	"io/fs"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// Spec says what to read: a repository, a ref of it, and with what right.
type Spec struct {
	URL         string
	Chart       string // the name of a chart in the Helm repository or registry at URL; "": URL is what is read
	Ref         Ref
	Credentials *Credentials // nil: anonymous
	Submodules  bool         // of Git: the files of submodules too
}

// Ref names a branch, a tag, a range of versions, a commit or a digest; at most one is set. The zero Ref is the remote's
// HEAD. Which of them a source understands depends on its kind.
type Ref struct {
	Branch, Tag string
	Semver      string // a range of versions, of which the highest tag is meant
	Commit      string // 40 hexadecimal digits
	Digest      string // sha256: and 64 hexadecimal digits
}

// String is what people call the ref: the short name, or HEAD.
func (r Ref) String() string {
	switch {
	case r.Commit != "":
		return r.Commit
	case r.Digest != "":
		return r.Digest
	case r.Semver != "":
		return r.Semver
	case r.Tag != "":
		return r.Tag
	case r.Branch != "":
		return r.Branch
	}
	return "HEAD"
}

// Snapshot is one commit of one repository, or one archive. It never changes; FS stays readable as long as it is held.
// FS also implements fs.ReadDirFS, fs.ReadFileFS, fs.StatFS and fs.ReadLinkFS.
type Snapshot struct {
	Repo    string // the URL without credentials
	Ref     string // the short name that was asked for; the branch's name when HEAD was, the tag's of a range
	Commit  string // 40 hexadecimal digits, or sha256: and 64
	Subject string // first line of the commit message
	Author  string // "Name <mail>"
	Time    time.Time
	FS      fs.FS

	tag plumbing.Hash // the annotated tag that the ref names; zero without one
}

// Event is what a subscriber hears: a new commit, or a failure, or the end of one. A failing remote is
// reported once for each change of its error, not once for each attempt.
type Event struct {
	Snapshot Snapshot  // the newest known; zero as long as none was ever read
	New      bool      // Snapshot.Commit differs from that of the event before
	Err      error     // why the last check went wrong; nil: all is well
	Since    time.Time // when the present failure began; zero without one
	Failures int       // checks that failed in a row
}

// Limits bounds what a remote may cost. Zero fields take the defaults.
type Limits struct {
	Connect time.Duration // to reach and greet the remote; 15 s
	Stall   time.Duration // without a byte from it; 30 s
	Total   time.Duration // for one check with its fetch; 15 min
	Pack    int64         // bytes of one pack on the wire; 2 GiB
	Object  int64         // bytes of one file; 100 MiB
	Inflate int64         // bytes of all objects of one pack together; 16 GiB
	Objects int           // objects in a pack, and entries in a tree with all below; 2,000,000
	Advert  int64         // bytes of a remote's list of refs; 64 MiB
	Kept    int64         // bytes of the packs of one mirror, or of the archives of one address, beyond which only what is in use or newest is kept; 2 GiB

	Archive  int64 // bytes of one archive on the wire; 256 MiB
	Unpacked int64 // bytes of all files of one archive together; 1 GiB
	Entries  int   // files and folders of one archive; 100,000
	Index    int64 // bytes of the index of a Helm repository; 128 MiB
}

func (l Limits) withDefaults() Limits {
	durations := []struct {
		to *time.Duration
		by time.Duration
	}{{&l.Connect, 15 * time.Second}, {&l.Stall, 30 * time.Second}, {&l.Total, 15 * time.Minute}}
	for _, d := range durations {
		if *d.to <= 0 {
			*d.to = d.by
		}
	}
	sizes := []struct {
		to *int64
		by int64
	}{{&l.Pack, 2 << 30}, {&l.Object, 100 << 20}, {&l.Inflate, 16 << 30}, {&l.Advert, 64 << 20}, {&l.Kept, 2 << 30},
		{&l.Archive, 256 << 20}, {&l.Unpacked, 1 << 30}, {&l.Index, 128 << 20}}
	for _, s := range sizes {
		if *s.to <= 0 {
			*s.to = s.by
		}
	}
	if l.Objects <= 0 {
		l.Objects = 2_000_000
	}
	if l.Entries <= 0 {
		l.Entries = 100_000
	}
	return l
}

func isHash(s string) bool {
	if len(s) != 40 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

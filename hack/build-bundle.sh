#!/bin/sh
# Builds the programs that gitopsd brings along and packs them for the build tag `bundle`.
#
#   OUT=build/bundle    where the programs go; a build without the tag runs them from there (GITOPSD_BUNDLE_DIR)
#   RACE=1              gitopsd-render with the race detector, into OUT=build/bundle-race, not packed: for tests
#   PACK=0              do not pack
#
# With the argument `runtime` it builds the container runtime's programs only and does not pack: for that package's tests.
#
# Run it as often as you like: go's cache makes an unchanged program cost a link, and an unchanged set is not packed again.
set -eu
cd "$(dirname "$0")/.."

race=${RACE:-0}
if [ "$race" = 1 ]; then
	out=${OUT:-build/bundle-race} pack=${PACK:-0}
else
	out=${OUT:-build/bundle} pack=${PACK:-1}
fi
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9 # builds at the same time wait for one another

# place NAME: puts the file just built in its place by rename. A program that runs is never written to, and one that did not
# change keeps its file.
place() {
	if cmp -s "$out/.new" "$out/$1"; then rm "$out/.new"; else mv -f "$out/.new" "$out/$1"; fi
}

# -buildvcs=false: a commit that does not change a program must not change its bytes. They name the folder that it is unpacked to, and other
# bytes restart containerd.
go_static() { # folder, tags, name if it is another one
	CGO_ENABLED=0 go build -buildvcs=false -tags "$2" -ldflags '-s -w' -o "$out/.new" "./cmd/$1"
	place "${3:-$1}"
}

go_static gitopsd-containerd 'netgo osusergo static_build no_btrfs no_devmapper no_zfs no_tracing'

go_static gitopsd-shim 'netgo osusergo static_build' containerd-shim-runc-v2
go_static gitopsd-bridge 'netgo osusergo'

CGO_ENABLED=1 go build -buildvcs=false -tags 'seccomp netgo osusergo static_build runc_nocriu' \
	-ldflags '-s -w -extldflags "-static"' -o "$out/.new" ./cmd/gitopsd-runc
place runc

${CC:-gcc} -O2 -Wall -Wextra -Werror -static -s -Wl,--build-id=none -o "$out/.new" cmd/gitopsd-pause/pause.c
place pause

[ "${1:-}" != runtime ] || exit 0

has_main() { ls "cmd/$1"/*.go >/dev/null 2>&1; }

if has_main gitopsd-render; then
	if [ "$race" = 1 ]; then
		CGO_ENABLED=1 go build -buildvcs=false -race -o "$out/.new" ./cmd/gitopsd-render
		place gitopsd-render
	else
		go_static gitopsd-render 'netgo osusergo'
	fi
fi
if has_main gitopsd-kubectl; then
	go_static gitopsd-kubectl 'netgo osusergo'
fi

if [ "$pack" = 1 ]; then
	CGO_ENABLED=0 go run ./internal/bundle/pack "$out" internal/bundle
fi

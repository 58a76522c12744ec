#!/usr/bin/env bash
# Fuzzes every fuzz target of the tree, FUZZTIME each (default 1m). What they find is kept in testdata/fuzz of the package, as a case
# of its tests. Each package is built once, and its targets run one after another.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
cache=$(go env GOCACHE)/fuzz/gitopsd

fuzz() { # folder, target
	local out=$bin/out
	mkdir -p "$cache/$1"
	(cd "$1" && "$bin/fuzz.test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "${FUZZTIME:-1m}" -test.fuzzcachedir "$cache/$1") 2>&1 | tee "$out" && return
	# Before Go 1.27 the end of the time can be told as a failure (https://go.dev/issue/75804). What an input brought about is told otherwise.
	[ "$(grep -A9 '^--- FAIL' "$out" | sed 1d)" = "    context deadline exceeded"$'\n'FAIL ] || return 1
	echo "its time was over; no input failed"
}

# read by a descriptor of its own: what is fuzzed shares standard input
while read -r dir <&3; do
	go test -c -fuzz . -o "$bin/fuzz.test" "./$dir"
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9]*' "$dir"/*_test.go | sed 's/^func //'); do
		echo "$dir $target"
		fuzz "$dir" "$target"
	done
done 3< <(grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u)

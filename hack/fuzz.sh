#!/bin/sh
# Fuzzes every fuzz target of the tree, FUZZTIME each (default 1m). What they find is kept in testdata/fuzz of the package, as a case
# of its tests. Each package is built once, and its targets run one after another.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
cache=$(go env GOCACHE)/fuzz/gitopsd
grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u | while read -r dir; do
	go test -c -fuzz . -o "$bin/fuzz.test" "./$dir"
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9]*' "$dir"/*_test.go | sed 's/^func //'); do
		echo "$dir $target"
		mkdir -p "$cache/$dir"
		(cd "$dir" && "$bin/fuzz.test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "${FUZZTIME:-1m}" -test.fuzzcachedir "$cache/$dir")
	done
done

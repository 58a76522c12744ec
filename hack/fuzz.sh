#!/bin/sh
# Fuzzes every fuzz target of the tree, FUZZTIME each (default 1m).
set -eu
cd "$(dirname "$0")/.."
grep -rn --include='*_test.go' -o 'func Fuzz[A-Za-z0-9]*' internal | sed -E 's/^([^:]*)\/[^/]*:[0-9]+:func (.*)$/\1 \2/' | sort -u |
	while read -r dir target; do
		echo "$dir $target"
		go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-1m}"
	done

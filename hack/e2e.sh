#!/bin/sh
# Runs the end-to-end tests that hack/build-e2e.sh has built for: on a control plane and node of our own, and beside that on a plain cluster, since
# most of their time they wait. What the second said is printed when the first has ended. TIMEOUT is that of each (default 40m).
set -u
cd "$(dirname "$0")/.."
go test -race -c -o build/e2e.test ./test/e2e || exit 1
cd test/e2e
log=$(mktemp)
trap 'kill "$plain" 2>/dev/null; wait "$plain" 2>/dev/null; rm -f "$log"' EXIT
trap 'exit 1' INT TERM
GITOPSD_E2E_ON=plain GITOPSD_E2E_FIRST=40 ../../build/e2e.test -test.timeout "${TIMEOUT:-40m}" >"$log" 2>&1 &
plain=$!
../../build/e2e.test -test.timeout "${TIMEOUT:-40m}"
own=$?
wait "$plain"
guest=$?
cat "$log"
echo "end-to-end tests: exit code $own on our own control plane, $guest on a plain cluster"
[ "$own" = 0 ] && [ "$guest" = 0 ]

#!/usr/bin/env bash
# Runs the end-to-end tests, in three processes beside each other: they wait more than they work. Each has ports, addresses and names of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
go test -race -c -o build/e2e.test ./test/e2e
# Long ones that need a node or start instances of their own: the third process. What is not named here runs in the first, and the engine's in the second too.
apart='^(TestArtifactsAfterARestart|TestCertificatesRenew|TestDeaths|TestEndedJobs|TestFileSourcesOfTenants|TestForcedFieldsComeBack|TestHooks|TestReadersOfRestoredConfigurationRestart|TestRenderedOnce|TestReplicasAreLeftToTheAutoscaler|TestRootWithCredentials|TestServerWithoutANode|TestStuckStatefulSet|TestTwoInstances|TestUnhealthyBaseIsNotGoneBackTo|TestUnusedImagesGo)$'
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT
cd test/e2e

run() { # name, number of the first instance, arguments of the tests
	local name=$1 first=$2 began=$SECONDS
	shift 2
	if GITOPSD_E2E_FIRST=$first ../../build/e2e.test -test.timeout 40m "$@" >"$logs/$name" 2>&1; then
		echo "ok: end-to-end tests $name, $((SECONDS - began)) s"
	else
		cat "$logs/$name"
		echo "FAILED: end-to-end tests $name, $((SECONDS - began)) s"
		return 1
	fi
}

run "apart" 80 -test.run "$apart" &
GITOPSD_E2E_ON=plain run "on a plain cluster" 40 -test.skip "$apart" &
run "on our own control plane" 0 -test.skip "$apart" &
failed=0
for job in $(jobs -p); do
	wait "$job" || failed=1
done
exit $failed

#!/bin/sh
# Fails when the generated files are not what the types generate.
set -eu
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
build/tools/controller-gen crd:crdVersions=v1 paths=./api/... output:crd:dir="$tmp"
diff -r "$tmp/gitopsd.io_applications.yaml" api/v1alpha1/gitopsd.io_applications.yaml ||
	{ echo "api/v1alpha1 is not what its types generate: run make generate" >&2; exit 1; }

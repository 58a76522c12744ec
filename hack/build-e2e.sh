#!/bin/sh
# Builds what the end-to-end tests run: gitopsd and gitopsd-render with the race detector, and everything they bring along.
set -eu
cd "$(dirname "$0")/.."
hack/build-bundle.sh
RACE=1 OUT=build/bundle-race PACK=0 hack/build-bundle.sh
go build -race -o build/gitopsd-race ./cmd/gitopsd
# Somebody else's cluster: there is nothing of ours in it to find races in, and with the detector tests took a third longer.
CGO_ENABLED=0 go build -o build/plaincluster ./test/plaincluster

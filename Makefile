# What a newcomer needs: make demo, make check, make build. `make help` lists the rest.

SHELL    := /bin/bash
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GO       ?= go
PACKAGES := ./api/... ./cmd/gitopsd/... ./cmd/gitopsd-render/... ./cmd/gitopsd-kubectl/... ./cmd/gitopsd-shim/... ./cmd/gitopsd-bridge/... ./internal/... ./test/... ./examples/...

.PHONY: help build demo check vet lint unit fuzzed e2e model bench fuzz generate deps clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

deps: ## install by name what a fresh Debian machine lacks
	@hack/install-deps.sh

build: deps ## bin/gitopsd: the whole product in one file
	@hack/build-bundle.sh
	CGO_ENABLED=0 $(GO) build -tags bundle -ldflags '$(LDFLAGS)' -o bin/gitopsd ./cmd/gitopsd
	@ls -lh bin/gitopsd | awk '{print "bin/gitopsd: " $$5}'

demo: build ## a push, a revert and what gitopsd made of them, on this machine
	@CGO_ENABLED=0 $(GO) run ./examples/demo

check: deps vet lint unit fuzzed e2e ## what CI runs: vet, linters, unit tests and end-to-end tests, under the race detector

vet:
	CGO_ENABLED=0 $(GO) vet $(PACKAGES)
	$(GO) vet -tags 'seccomp' ./cmd/gitopsd-runc/...
	cd bench && CGO_ENABLED=0 $(GO) vet .

lint: build/tools/staticcheck build/tools/controller-gen
	@unformatted=$$(gofmt -l api cmd internal test examples bench 2>/dev/null); [ -z "$$unformatted" ] || { echo "not gofmt: $$unformatted"; exit 1; }
	CGO_ENABLED=0 build/tools/staticcheck $(PACKAGES)
	@hack/check-generated.sh
	$(GO) test -count=1 ./internal

build/tools/%: hack/tools/go.mod
	@mkdir -p build/tools
	cd hack/tools && $(GO) build -o ../../build/tools/ $$($(GO) list -f '{{.ImportPath}}' tool | grep '/$*$$')

unit: ## unit tests under the race detector; those of containers and networks need root
	@hack/build-bundle.sh runtime
	$(GO) test -race -timeout 15m $$($(GO) list $(PACKAGES) ./cmd/gitopsd-runc/... | grep -v /test/e2e)

fuzzed: ## every fuzz target for a few seconds
	@FUZZTIME=3s hack/fuzz.sh

e2e: ## end-to-end tests of a daemon with the race detector: on real containers, and on a cluster of somebody else's; needs root
	@hack/build-e2e.sh
	@hack/e2e.sh

model: ## random histories of commits, crashes and changes by hand, in virtual time; HISTORIES=10000, SEED=1 is the first
	cd test/model && HISTORIES=$(or $(HISTORIES),10000) SEED=$(or $(SEED),1) $(GO) test -count=1 -timeout 3h -run TestHistories .

bench: build ## the figures of docs/performance.md; FIGURES="start pods" takes some (program start idle commit pods heal kubectl engine); APPLICATIONS=1000 for engine
	cd bench && $(GO) run . $(FIGURES)

fuzz: ## fuzz everything that reads what strangers wrote, FUZZTIME each (default 1m)
	@hack/fuzz.sh

generate: build/tools/controller-gen ## deepcopy functions and the custom resource definition from the Go types
	build/tools/controller-gen object crd:crdVersions=v1 paths=./api/... output:crd:dir=./api/v1alpha1

clean: ## remove what was built
	rm -rf bin build internal/bundle/bundle.tar.zst internal/bundle/bundle.manifest

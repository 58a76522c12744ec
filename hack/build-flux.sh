#!/bin/sh
# Builds Flux's source-controller and kustomize-controller into build/flux, for the benchmark: they run beside gitopsd on the same control plane.
# They are built from their own modules, each with its own dependencies, and are no dependency of the product.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build/flux
mkdir -p "$out/crds"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
for module in source-controller@v1.9.3 kustomize-controller@v1.9.5; do
	name=${module%@*}
	[ "$(cat "$out/$name.version" 2>/dev/null)" = "$module" ] && [ -x "$out/$name" ] && continue
	dir=$(go mod download -json "github.com/fluxcd/$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	cp -r "$dir" "$work/$name"
	chmod -R u+w "$work/$name"
	cp "$work/$name"/config/crd/bases/*.yaml "$out/crds/"
	# The API's folder is a module of its own, which the module's archive leaves out.
	(cd "$work/$name" && go mod edit -dropreplace "github.com/fluxcd/$name/api" && CGO_ENABLED=0 go build -mod=mod -trimpath -o "$out/$name" .)
	echo "$module" >"$out/$name.version"
done
ls -l "$out"

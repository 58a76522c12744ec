#!/bin/sh
# Installs, by name and with apt-get, what a fresh Debian machine lacks to build and test. Quiet when nothing is missing.
set -eu

missing=
need() { # program or file, package
	case $1 in
	/*) ls $1 >/dev/null 2>&1 || missing="$missing $2" ;;
	*) command -v "$1" >/dev/null 2>&1 || missing="$missing $2" ;;
	esac
}
need gcc gcc
need pkg-config pkg-config
need '/usr/include/seccomp.h' libseccomp-dev
need '/usr/lib/*/libc.a' libc6-dev
need ip iproute2
need nft nftables
need git git
need curl curl
need gpg gnupg
need ssh-keygen openssh-client

[ -n "$missing" ] || exit 0
echo "installing:$missing"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "this machine has no apt-get; install by hand:$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null

#!/bin/sh
# Installs what the project needs on Debian 12, and nothing that is there already.
#
#   tools/setup.sh lab        what a lab of network namespaces needs
#   tools/setup.sh dev        that, and what building, generating and testing need
#   tools/setup.sh kernels    what virtual machines of other kernels need
#
# Services that packages bring along (nginx, prometheus, nsd, haproxy) are neither started nor
# enabled: only their programs are used.
set -eu

lab="iproute2 ethtool nginx-light curl iputils-ping procps jq"
dev="$lab git gcc libc6-dev clang-19 clang-format-19 llvm-19 libbpf-dev linux-libc-dev
	bpftool protobuf-compiler prometheus tcpdump iperf3 traceroute nsd knot-dnsutils
	libnginx-mod-stream haproxy wrk"
kernels="iproute2 ethtool nginx-light qemu-system-x86 xz-utils"

case "${1-}" in
kernels) wanted=$kernels ;;
lab) wanted=$lab ;;
dev) wanted=$dev ;;
*)
	echo "usage: tools/setup.sh lab|dev|kernels" >&2
	exit 2
	;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "setup: this is not Debian; install what corresponds to:" $wanted >&2
	exit 1
fi

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=
for package in $wanted; do
	installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "setup: must install$missing: run tools/setup.sh $1 as root" >&2
		exit 1
	fi
	exec sudo "$0" "$@"
fi

scratch=$(mktemp -d)
shield=/usr/sbin/policy-rc.d

# While packages are installed, a policy of our own forbids to start services.
# One that was there before is put back.
raise_shield() {
	if [ -e "$shield" ]; then
		cp -p "$shield" "$scratch/policy-rc.d"
	fi
	printf '#!/bin/sh\nexit 101\n' >"$scratch/shield"
	install -m 0755 "$scratch/shield" "$shield"
}

clean_up() {
	if [ -e "$scratch/policy-rc.d" ]; then
		cp -p "$scratch/policy-rc.d" "$shield"
	else
		rm -f "$shield"
	fi
	rm -rf "$scratch"
}

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
		-o Dpkg::Use-Pty=0 "$@" </dev/null >"$scratch/log" 2>&1
}

failed() {
	echo "setup: apt-get could not $1:" >&2
	cat "$scratch/log" >&2
	exit 1
}

trap clean_up EXIT
trap 'exit 1' HUP INT TERM
raise_shield
echo "setup: installing$missing"
# The package lists are fetched only where they are missing or out of date.
if ! apt install --no-install-recommends $missing; then
	apt update || failed "fetch the package lists"
	apt install --no-install-recommends $missing || failed "install$missing"
fi

# The shield keeps a service from starting now; this, at the next boot.
for service in nginx prometheus iperf3 nsd haproxy; do
	case "$missing " in
	*" $service "* | *" $service-light "*)
		if command -v systemctl >/dev/null; then
			systemctl --quiet disable "$service.service" >/dev/null 2>&1 || true
		fi
		;;
	esac
done

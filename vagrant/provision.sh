#!/bin/sh
# Runs as root in the virtual machine: installs Go, builds and installs
# Steelyard, and shows the demonstration. May be run again at any time.
set -eu

cd /steelyard

# Debian 12's own Go is too old to fetch the toolchain that go.mod asks for; the
# one of its backports can, when it is told to.
echo "deb http://deb.debian.org/debian bookworm-backports main" \
	>/etc/apt/sources.list.d/backports.list
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y install --no-install-recommends make git ca-certificates
apt-get -qq -y install --no-install-recommends -t bookworm-backports golang-go
echo "export GOTOOLCHAIN=auto" >/etc/profile.d/steelyard.sh
export GOTOOLCHAIN=auto

# The sources belong to another user; git is asked for the version only.
git config --system --get-all safe.directory | grep -qx /steelyard ||
	git config --system --add safe.directory /steelyard

tools/setup.sh lab
make build install

# The same lab and the same story as on any other machine.
make demo

cat <<'END'

Steelyard is installed. Go on with:

  vagrant ssh
  cd /steelyard
  make demo-shell
END

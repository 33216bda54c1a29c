#!/bin/sh
# Regenerates all generated code and fails if that changes, adds or removes a
# file, whether or not it is known to git.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Every file of the tree with its checksum, but for those that git ignores.
snapshot() {
	git ls-files -z --cached --others --exclude-standard | sort -zu |
		xargs -0 sha256sum 2>/dev/null || true
}

snapshot >"$scratch/before"
go generate ./...
snapshot >"$scratch/after"
if ! diff "$scratch/before" "$scratch/after" >"$scratch/diff"; then
	echo "generated code is not what its sources give; run 'make generate' and commit:" >&2
	sed -n 's/^[<>] [0-9a-f]*  /  /p' "$scratch/diff" | sort -u >&2
	exit 1
fi

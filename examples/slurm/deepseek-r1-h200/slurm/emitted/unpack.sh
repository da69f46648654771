#!/usr/bin/env bash
# Unpacks what the job carries into a local folder of this node, once for all jobs that carry the same.
# usage: unpack.sh ARCHIVE SHA256 FOLDER    the folder is named after the digest
set -euo pipefail
umask 077
archive=$1 digest=$2 folder=$3
home=${folder%/*}

fail() {
  printf 'unpack.sh on %s: %s\n' "$(uname -n)" "$1" >&2
  exit 1
}

mkdir -p -- "$home" || fail "$home cannot be made"
# Others can guess its name, and get there first.
[[ -O $home && ! -L $home ]] || fail "$home belongs to somebody else"
[[ ! -d $folder ]] || exit 0

draft=$(mktemp -d -- "$home/.draft.XXXXXX") || fail "nothing can be written in $home"
trap 'rm -rf -- "$draft"' EXIT
cp -- "$archive" "$draft/archive" || fail "$archive cannot be copied"
[[ $(sha256sum <"$draft/archive") == "$digest  -" ]] || fail "$archive is not what was compiled: its digest is another"
mkdir -- "$draft/tree"
tar -xzf "$draft/archive" -C "$draft/tree" || fail "$archive cannot be unpacked"
# Whoever comes second finds a folder with the same content.
mv -T -- "$draft/tree" "$folder" 2>/dev/null || [[ -d $folder ]] || fail "$folder cannot be made"

#!/usr/bin/env bash
# Unpacks what the job carries into a local folder of this node, once for all jobs that carry the same.
# usage: unpack.sh ARCHIVE SHA256 FOLDER    the folder is named after the digest
set -euo pipefail
umask 077
archive=$1 digest=$2 folder=$3
home=${folder%/*}
keep_days=14

fail() {
  printf 'unpack.sh on %s: %s\n' "$(uname -n)" "$1" >&2
  exit 1
}

mkdir -p -- "$home" || fail "$home cannot be made"
# Others can guess its name, and get there first.
[[ -O $home && ! -L $home ]] || fail "$home belongs to somebody else"
# One at a time on a node: what one has just seen there, another does not take away.
exec {lock}<"$home"
flock --timeout 600 "$lock" || fail "somebody else has been unpacking in $home for 600 s"
if [[ -d $folder ]]; then
  touch -- "$folder" # in use again
  exit 0
fi

# Where something new comes, what nobody has started from for long, and no process has on its path, goes.
while IFS= read -r -d '' old; do
  grep -qsF -- "$old" /proc/[0-9]*/environ || rm -rf -- "$old" || printf '%s is old, and stays\n' "$old" >&2
done < <(find "$home" -mindepth 1 -maxdepth 1 -type d -mtime "+$keep_days" -print0)

draft=$(mktemp -d -- "$home/.draft.XXXXXX") || fail "nothing can be written in $home"
trap 'rm -rf -- "$draft"' EXIT
cp -- "$archive" "$draft/archive" || fail "$archive cannot be copied"
[[ $(sha256sum <"$draft/archive") == "$digest  -" ]] || fail "$archive is not what was compiled: its digest is another"
mkdir -- "$draft/tree"
tar -xzf "$draft/archive" -C "$draft/tree" || fail "$archive cannot be unpacked"
mv -T -- "$draft/tree" "$folder" || fail "$folder cannot be made"

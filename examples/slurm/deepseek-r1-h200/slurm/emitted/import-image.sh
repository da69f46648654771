#!/usr/bin/env bash
# Imports a container image to a file that every node sees, once, however many jobs ask for it at a time.
# usage: import-image.sh pyxis|apptainer SOURCE FILE
set -euo pipefail
runtime=$1 source=$2 file=$3
import_limit_s=3600
wait_limit_s=4000

fail() {
  printf 'import-image.sh: %s\n' "$1" >&2
  exit 1
}

[[ ! -s $file ]] || exit 0
mkdir -p -- "${file%/*}" || fail "${file%/*} cannot be made"
exec {lock}>>"$file.lock"
flock --timeout "$wait_limit_s" "$lock" || fail "somebody else has been importing $file for $wait_limit_s s"
[[ ! -s $file ]] || exit 0

draft=$file.partial
rm -f -- "$draft"
case $runtime in
  pyxis)
    timeout "$import_limit_s" enroot import --output "$draft" "$source" || fail "enroot cannot import $source"
    unsquashfs -l "$draft" >/dev/null || fail "what enroot made of $source is no whole squashfs"
    ;;
  apptainer)
    timeout "$import_limit_s" apptainer pull "$draft" "$source" || fail "apptainer cannot pull $source"
    apptainer inspect "$draft" >/dev/null || fail "what apptainer made of $source is no whole image"
    ;;
  *) fail "there is no runtime $runtime" ;;
esac
mv -- "$draft" "$file"

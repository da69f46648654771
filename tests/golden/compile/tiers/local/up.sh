#!/usr/bin/env bash
# Runs the plan beside this script: one agent a node, all on loopback addresses. Ctrl-C drains and stops.
# usage: up.sh [RUN_FOLDER]        PYTHON names the interpreter that has dynamoc
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
run=${1:-$here/run}
python=${PYTHON:-python3}
hosts=127.0.0.1,127.0.0.2

if [[ -e $run/key ]]; then
  echo "up.sh: $run holds a run already; name another folder" >&2
  exit 2
fi
umask 077
mkdir -p -- "$run"
cp -- "$here/plan.json" "$run/plan.json"
"$python" -c 'import secrets, sys; sys.stdout.buffer.write(secrets.token_bytes(32))' >"$run/key"

agents=()
stopping=false
stop() {
  stopping=true
  kill -TERM "${agents[@]}" 2>/dev/null || true
}
trap stop INT TERM

"$python" -m dynamoc.runtime agent --run-dir "$run" --node 0 --hosts "$hosts" &
agents+=($!)
"$python" -m dynamoc.runtime agent --run-dir "$run" --node 1 --hosts "$hosts" &
agents+=($!)
echo 'serving SmolLM2-135M-Instruct at http://127.0.0.1:8000'

# The first agent that ends, ends the run. A signal interrupts a wait, which is then repeated.
status=0
wait -n "${agents[@]}" || status=$?
if $stopping; then status=0; else stop; fi
for agent in "${agents[@]}"; do
  code=0
  wait "$agent" || code=$?
  while kill -0 "$agent" 2>/dev/null; do
    code=0
    wait "$agent" || code=$?
  done
  # 127: the agent whose status `wait -n` took
  if ((code != 127 && code > status)); then status=$code; fi
done
exit "$status"

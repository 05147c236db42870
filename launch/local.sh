#!/usr/bin/env bash
# Runs a command as N processes of one run on this machine.
#
#   launch/local.sh N [--devices=D] [--port=P] [--dry-run] COMMAND...
#   launch/local.sh 2 python -m metro_jax.train --config=configs/synthetic.py --workdir=runs/two
#
# With --devices=D every process has D CPU devices; otherwise what JAX finds.
# Exits as the first process that failed; when one fails the others end themselves.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

[ $# -ge 1 ] || usage
count=$1; shift
case $count in ''|*[!0-9]*|0) usage ;; esac
port=$((20000 + $$ % 10000))
devices='' dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --devices=*) devices=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --dry-run) dry=1 ;;
    *) break ;;
  esac
  shift
done
[ $# -ge 1 ] || usage

export METRO_COORDINATOR=127.0.0.1:$port METRO_PROCESSES=$count
if [ -n "$devices" ]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi
if [ -n "$dry" ]; then
  for ((i = 0; i < count; i++)); do
    printf 'METRO_COORDINATOR=%s METRO_PROCESSES=%s METRO_PROCESS=%s' \
      "$METRO_COORDINATOR" "$count" "$i"
    printf ' %q' "$@"
    printf '\n'
  done
  exit 0
fi

pids=() stopped=''
# A signal to this script is for all of them.
trap 'stopped=1; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  METRO_PROCESS=$i "$@" &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do
  result=0
  wait "$pid" || result=$?
  if [ -n "$stopped" ]; then # the signal ended the wait, not the process
    stopped='' result=0
    wait "$pid" || result=$?
  fi
  [ "$code" -ne 0 ] || code=$result
done
exit "$code"

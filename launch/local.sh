#!/usr/bin/env bash
# Runs a command as N processes of one run on this machine.
#
#   launch/local.sh N [--devices=D] [--port=P] [--dry-run] COMMAND...
#   launch/local.sh 2 python -m metro_jax.train --config=configs/synthetic.py --workdir=runs/two
#
# With --devices=D every process has D CPU devices; otherwise its share of the GPUs, where
# there are any (of CUDA_VISIBLE_DEVICES, if that is set), or what JAX finds.
# Exits as the first process that failed; when one fails the others end themselves.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }

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
gpus=()
if [ "$count" -gt 1 ] && [[ ${JAX_PLATFORMS:-cuda} =~ cuda|gpu ]]; then
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  elif [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && command -v nvidia-smi >/dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader || true)
  fi
fi
share=$((${#gpus[@]} / count))
if [ "${#gpus[@]}" -gt 0 ] && [ "$share" -eq 0 ]; then
  echo "local.sh: expected a GPU for each of $count processes, got ${#gpus[@]}; on CPUs: --devices=1" >&2
  exit 2
fi
mine() { # mine INDEX: the variables of one process
  local some=("${gpus[@]:$(($1 * share)):share}") joined
  printf 'METRO_PROCESS=%s\n' "$1"
  [ "$share" -gt 0 ] || return 0
  joined=$(printf ',%s' "${some[@]}")
  printf 'CUDA_VISIBLE_DEVICES=%s\n' "${joined#,}"
}
if [ -n "$dry" ]; then
  for ((i = 0; i < count; i++)); do
    mapfile -t own < <(mine "$i")
    printf 'METRO_COORDINATOR=%s METRO_PROCESSES=%s' "$METRO_COORDINATOR" "$count"
    printf ' %q' "${own[@]}" "$@"
    printf '\n'
  done
  exit 0
fi

pids=() stopped=''
# A signal to this script is for all of them.
trap 'stopped=1; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  mapfile -t own < <(mine "$i")
  env "${own[@]}" "$@" &
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

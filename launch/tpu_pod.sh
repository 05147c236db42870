#!/usr/bin/env bash
# Trains on a Cloud TPU slice: the same command on every worker.
#
#   launch/tpu_pod.sh create            makes the slice
#   launch/tpu_pod.sh install           copies this checkout to all workers, installs it
#   launch/tpu_pod.sh run FLAGS...      starts python -m metro_jax.train FLAGS on all
#   launch/tpu_pod.sh logs [WORKER]     follows a worker's log, the first one's by default
#   launch/tpu_pod.sh status            exit code of the run, or "running"
#   launch/tpu_pod.sh stop              SIGTERM: saves and ends; `run` goes on from there
#   launch/tpu_pod.sh delete            gives the slice back
#   launch/tpu_pod.sh all FLAGS...      create, install, run, logs
#
# With --dry-run before the action nothing is done; the commands are printed. Settings:
#   NAME=metro ZONE=us-central1-a ACCELERATOR=v5litepod-16 PROJECT= SPOT=1 RUNTIME=
set -euo pipefail

NAME=${NAME:-metro} ZONE=${ZONE:-us-central1-a} ACCELERATOR=${ACCELERATOR:-v5litepod-16}
PROJECT=${PROJECT:-} SPOT=${SPOT:-} RUNTIME=${RUNTIME:-}
# The machines' own Python is too old; uv brings one. Expanded there, not here:
# shellcheck disable=SC2016
SET_UP='mkdir -p metro_jax && tar -C metro_jax -xzf metro_jax.tgz && cd metro_jax &&
python3 -m pip install -q --user uv && export PATH=$HOME/.local/bin:$PATH &&
uv venv -q --allow-existing --python 3.12 .venv && uv pip install -q -e ".[tpu]"'
dry=''
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

runtime() {
  case $ACCELERATOR in
    v5lite*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

do_it() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

where() { # flags of every command
  printf '%s\n' "--zone=$ZONE"
  [ -z "$PROJECT" ] || printf '%s\n' "--project=$PROJECT"
}

tpu() { # gcloud's verb for TPU machines, on this slice
  local verb=$1 flags
  shift
  mapfile -t flags < <(where)
  do_it gcloud compute tpus tpu-vm "$verb" "${flags[@]}" "$@"
}

on() { # on WORKER COMMAND
  tpu ssh "$NAME" --worker="$1" --command="$2"
}

create() {
  local spot=()
  [ -z "$SPOT" ] || spot=(--spot)
  tpu create "$NAME" --accelerator-type="$ACCELERATOR" \
    --version="${RUNTIME:-$(runtime)}" "${spot[@]}"
}

install() {
  local archive
  archive=$(mktemp --suffix=.tgz)
  do_it tar -C "$root" --exclude=.git --exclude=.venv --exclude=runs -czf "$archive" . &&
    tpu scp "$archive" "$NAME:metro_jax.tgz" --worker=all &&
    on all "$SET_UP" &&
    rm -f "$archive"
}

run() {
  local flags
  flags=$(printf '%q ' "$@")
  # The run outlives this connection; train.code appears when it ends.
  on all "cd metro_jax && rm -f train.code && { nohup sh -c '.venv/bin/python -m metro_jax.train \"\$@\"; echo \$? > train.code' train $flags > train.log 2>&1 < /dev/null & echo \$! > train.pid; }"
}

logs() { on "${1:-0}" 'tail -n 100 -F metro_jax/train.log'; }
status() { on 0 'cat metro_jax/train.code 2>/dev/null || echo running'; }
stop() { on 0 "pkill -TERM -P \$(cat metro_jax/train.pid)"; }
delete() { tpu delete "$NAME" --quiet; }

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
  fi
  action=${1:-}
  case $action in
    create | install | run | logs | status | stop | delete)
      shift
      "$action" "$@"
      ;;
    all)
      shift
      create
      install
      run "$@"
      logs
      ;;
    *) usage ;;
  esac
fi

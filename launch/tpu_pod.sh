#!/usr/bin/env bash
# Trains on a Cloud TPU slice: the same command on every worker.
#
#   launch/tpu_pod.sh create            makes the slice
#   launch/tpu_pod.sh install           copies this checkout to all workers, installs it
#   launch/tpu_pod.sh run FLAGS...      starts python -m metro_jax.train FLAGS on all; a
#                                       run that is there already is stopped first
#   launch/tpu_pod.sh logs [WORKER]     follows a worker's log, the first one's by default
#   launch/tpu_pod.sh status [WORKER]   exit code of the run, "running", or "lost"
#                                       if it has neither, as after a reboot
#   launch/tpu_pod.sh stop              SIGTERM: saves and ends; `run` goes on from there
#   launch/tpu_pod.sh delete            gives the slice back
#   launch/tpu_pod.sh all FLAGS...      create, install, run, logs
#
# With --dry-run before the action nothing is done; the commands are printed. Settings:
#   NAME=metro ZONE=us-central1-a ACCELERATOR=v5litepod-16 PROJECT= SPOT=1 RUNTIME=
# What stands in single quotes is expanded by the machines, not here:
# shellcheck disable=SC2016
set -euo pipefail

NAME=${NAME:-metro} ZONE=${ZONE:-us-central1-a} ACCELERATOR=${ACCELERATOR:-v5litepod-16}
PROJECT=${PROJECT:-} SPOT=${SPOT:-} RUNTIME=${RUNTIME:-}
# What the machines do. After a reboot no process with this number has such a child.
RUNNING='-f metro_jax.train -P "$(cat train.pid)"'
STATUS="cd metro_jax && if pgrep $RUNNING > /dev/null; then echo running; else sleep 1; "
STATUS+="cat train.code 2>/dev/null || echo lost; fi"
# A run that is stopped saves, which takes as long as it takes, but not for ever.
END="if [ -s train.pid ] && pkill -TERM $RUNNING; then for _ in \$(seq 120); do "
END+="pgrep $RUNNING > /dev/null || break; sleep 1; done; pkill -KILL $RUNNING; fi; "
END+='rm -f train.code train.pid'
# Their own Python is too old; uv brings one.
SET_UP='mkdir -p metro_jax && tar -C metro_jax -xzf metro_jax.tgz && cd metro_jax &&
python3 -m pip install -q --user uv && export PATH=$HOME/.local/bin:$PATH &&
uv venv -q --allow-existing --python 3.12 .venv && uv pip install -q -e ".[tpu]"'
dry=''
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
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
  on all "cd metro_jax && { $END; nohup sh -c '.venv/bin/python -m metro_jax.train \"\$@\"; echo \$? > train.code' train $flags > train.log 2>&1 < /dev/null & echo \$! > train.pid; }"
}

logs() { # logs WORKER
  on "$1" 'tail -n 100 -F metro_jax/train.log'
}
status() { # status WORKER
  on "$1" "$STATUS"
}
stop() { on 0 "pkill -TERM -P \$(cat metro_jax/train.pid)"; }
delete() { tpu delete "$NAME" --quiet; }

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
  fi
  action=${1:-}
  case $action in
    create | install | stop | delete) "$action" ;;
    logs | status) "$action" "${2:-0}" ;;
    run)
      shift
      run "$@"
      ;;
    all)
      shift
      create
      install
      run "$@"
      logs 0
      ;;
    *) usage ;;
  esac
fi

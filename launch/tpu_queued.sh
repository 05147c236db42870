#!/usr/bin/env bash
# Trains on a spot TPU slice from the queue and takes a new one whenever it is taken away.
#
#   launch/tpu_queued.sh [--dry-run] FLAGS...      flags of python -m metro_jax.train
#
# --workdir must outlive the slice: a folder that all slices mount. Runs until training
# has ended; Ctrl-C leaves the slice running, `launch/tpu_queued.sh --delete` gives it
# back. Settings: as in launch/tpu_pod.sh, and EVERY=60, the seconds between looks.
set -euo pipefail

SPOT=${SPOT:-1} EVERY=${EVERY:-60}
# shellcheck source-path=SCRIPTDIR source=tpu_pod.sh
. "$(dirname "${BASH_SOURCE[0]}")/tpu_pod.sh"

QUEUED=$NAME-queued
STOPPED=75 # the run's exit code after SIGTERM

queued() {
  local verb=$1 flags
  shift
  mapfile -t flags < <(where)
  do_it gcloud compute tpus queued-resources "$verb" "$QUEUED" "${flags[@]}" "$@"
}

request() {
  local spot=()
  [ -z "$SPOT" ] || spot=(--spot)
  queued create --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
    --runtime-version="${RUNTIME:-$(runtime)}" "${spot[@]}"
}

give_back() { queued delete --force --quiet; }

state() { # NONE only if there is none; UNKNOWN if it could not be asked
  local said
  if said=$(queued describe --format='value(state.state)' 2>&1); then
    printf '%s\n' "${said##*$'\n'}"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo NONE
  else
    printf '%s\n' "$said" >&2
    echo UNKNOWN
  fi
}

wait_for_slice() {
  local now
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return ;;
      NONE) request || [ -n "$requested" ] || exit 1 ;;
      SUSPENDED | SUSPENDING | FAILED) give_back || true ;;
    esac
    requested=1
    echo "$(date +%T) $QUEUED: $now" >&2
    sleep "$EVERY"
  done
}

look() { # what the machines say of the run: an exit code, running or lost
  local all line found=''
  all=$(status all) || return 1
  while IFS= read -r line; do
    case $line in
      lost) # started anew: the others end without it
        echo lost
        return
        ;;
      running) found=running ;;
      *[!0-9]* | '') ;; # gcloud's own words
      0) found=${found:-0} ;;
      "$STOPPED") [[ -n $found && $found != 0 ]] || found=$line ;;
      *) [ "$found" = running ] || found=$line ;;
    esac
  done <<<"$all"
  [ -n "$found" ] && echo "$found"
}

train() { # until it ends (0), or the slice or the run must be had anew (1)
  local code now
  run --stopped_exit_code="$STOPPED" "$@" || return 1
  while true; do
    sleep "$EVERY"
    now=$(state)
    case $now in
      ACTIVE) ;;
      UNKNOWN) continue ;;
      *) return 1 ;;
    esac
    code=$(look) || continue
    case $code in
      running) ;;
      0) return 0 ;;
      lost | "$STOPPED") return 1 ;;
      *)
        echo "The run failed with exit code $code; see launch/tpu_pod.sh logs" >&2
        failures=$((failures + 1))
        [ "$failures" -lt 3 ] || exit 1
        return 1
        ;;
    esac
  done
}

if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
  request
  queued describe --format='value(state.state)'
  install
  run --stopped_exit_code="$STOPPED" "$@"
  status all
  give_back
  exit 0
fi
if [ "${1:-}" = --delete ]; then
  give_back
  exit 0
fi
[ $# -ge 1 ] || {
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}
failures=0 installed='' requested=''
while true; do
  now=$(state)
  case $now in
    ACTIVE | UNKNOWN) ;;
    *) installed='' ;;
  esac
  wait_for_slice
  [ -n "$installed" ] || install || continue
  installed=1
  if train "$@"; then
    give_back
    exit 0
  fi
done

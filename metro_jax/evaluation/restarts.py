"""What a start finds in its workdir: other settings, or a run without checkpoints."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from metro_jax import config as base
from metro_jax.checkpoints import runs
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.checkpoints.checkpoint import START_OVER
from metro_jax.checkpoints.run_checkpoints import Start
from metro_jax.evaluation import run_report
from metro_jax.training import logs


def differences(config: ConfigDict, stored: Mapping[str, Any]) -> dict[str, tuple]:
  """Settings that a checkpoint was not made with.

  Args:
    config: Of the start.
    stored: Of the checkpoint, as plain values; what it does not know has its default.

  Returns:
    By dotted key, the checkpoint's value and the start's.
  """

  def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(runs.flatten(settings)))  # where a tuple is a list

  before = plain(base.get_config().to_dict()) | plain(stored)
  now = plain(config.to_dict())
  return {k: (before[k], now[k]) for k in now if before.get(k, now[k]) != now[k]}


def earlier(config: ConfigDict, start: Start) -> list[dict[str, Any]]:
  """Says what the steps until now were made with, where that differs."""
  changed = differences(config, start.config) if start.config else {}
  found = [dict(entry) for entry in start.earlier]
  if changed:
    settings = {key: was for key, (was, _) in changed.items()}
    found.append({"until": start.step, **settings})
  return found


def go_on(folder: RunFolder, config: ConfigDict, start: Start) -> None:
  """Says what a run goes on from, and with which other settings.

  A report of its end until now is kept under another name.
  """
  step, last = start.step, config.train.num_steps
  if step >= last:
    print(f"Nothing to train: {folder.address} is at step {step} of {last}", flush=True)
    return
  print(f"Going on from step {step} in {folder.address}", flush=True)
  changed = differences(config, start.config) if start.config else {}
  if changed:
    lines = [f"  {key}: {now!r}, was {was!r}" for key, (was, now) in changed.items()]
    text = f"with settings that the steps until {step} did not have:"
    print("\n".join([text, *lines]), flush=True)
  folder.set_aside(run_report.FILE)


def facts(earlier: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Says in a report which steps were made with other settings than the last."""
  return {
    f"Until step {entry['until']:,}": ", ".join(
      f"{key}={value!r}" for key, value in entry.items() if key != "until"
    )
    for entry in earlier
  }


def expect_unused(folder: RunFolder, config: ConfigDict) -> None:
  """Refuses to begin at step 0 where a run has already saved something.

  A run that was killed before its first save has lost nothing and begins again.

  Raises:
    ValueError: Naming what is there.
  """
  found, logged = [], 0
  if (folder.local / logs.METRICS_FILE).exists():
    logged = max((x["step"] for x in logs.read_metrics(folder.local)), default=0)
  if logged > _unsaved_until(config):
    found.append(f"{logs.METRICS_FILE} to step {logged}")
  if (folder.address / run_report.FILE).exists():
    found.append(run_report.FILE)
  if found:
    raise ValueError(
      f"{folder.address}: expected checkpoints beside {' and '.join(found)}, found "
      f"none; {START_OVER} begins at step 0 and sets these files aside"
    )


def set_aside(folder: RunFolder) -> None:
  """Keeps what a run without checkpoints left, under other names."""
  for name in (logs.METRICS_FILE, run_report.FILE):
    if new := folder.set_aside(name):
      print(f"{folder.address}: {name} of an earlier run is now {new}", flush=True)


def _unsaved_until(config: ConfigDict) -> int:
  """The last step that can be logged before the first save is known to have ended."""
  last = config.train.num_steps
  every = (config.train.validate_every, config.train.checkpoint_every)
  first = min(*every, last)
  return min(*((first // interval + 1) * interval for interval in every), last)

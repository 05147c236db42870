"""Everything that the benchmark measures, for one config on the devices here."""

import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from metro_jax.benchmarking import ceiling, input_speed, parts, runners, saving, timing
from metro_jax.benchmarking.ceiling import Ceiling
from metro_jax.benchmarking.input_speed import InputSpeed
from metro_jax.benchmarking.runners import Runner, Trainer
from metro_jax.benchmarking.saving import Saving
from metro_jax.benchmarking.timing import Timing
from metro_jax.models.setup import Network
from metro_jax.training.state import TrainState

SECTIONS = (
  *("train", "evaluate", "predict", "input", "transfer"),
  *("parts", "pmap", "saving"),
)
PREDICTED = (1, 8, 64)  # pictures at once
PROFILED_STEPS = 3


class Row(NamedTuple):
  """Something measured.

  Attributes:
    name: What.
    examples: Images of one run; 0 where that means nothing.
    timing: Of one run.
    flops: Of one run on one device, its products; 0 if there are none.
    memory_bytes: Of one device, as planned; 0 if it is not known.
    compile_seconds: 0 if nothing was compiled.
  """

  name: str
  examples: int
  timing: Timing
  flops: float = 0.0
  memory_bytes: float = 0.0
  compile_seconds: float = 0.0


class Measured(NamedTuple):
  """All results; what was not asked for is empty or None.

  Attributes:
    ceiling: Of matrix products, the better of before and after the rest.
    rows: Steps, prediction, input, copies.
    parts: Of the training step, each alone.
    pmap: The training step under `pmap` and under plain `jit`, in turn.
    input: Beside the original's way.
    saving: Steps beside an asynchronous save.
  """

  ceiling: Ceiling
  rows: list[Row]
  parts: list[Row]
  pmap: dict[str, Timing]
  input: InputSpeed | None
  saving: Saving | None


class Job(NamedTuple):
  """What the sections need."""

  config: ConfigDict
  network: Network
  start: TrainState | None
  budget_s: float


def measure(
  config: ConfigDict,
  network: Network,
  budget_s: float,
  sections: Sequence[str] = SECTIONS,
  profile: pathlib.Path | None = None,
) -> Measured:
  """Runs the sections one after another.

  Args:
    config: The whole config.
    network: Its network.
    budget_s: Seconds to repeat each measurement for.
    sections: Of `SECTIONS`.
    profile: Folder for a trace of a few training steps, for Perfetto or XProf.
  """
  say("matmul ceiling")
  top = ceiling.measure(config.model.compute_dtype, budget_s / 4)
  stateless = {"input", "transfer"}
  needed = profile is not None or set(sections) - stateless
  start = runners.fresh_state(config, network) if needed else None
  job = Job(config, network, start, budget_s)
  rows: list[Row] = []
  done: dict[str, object] = {"pmap": {}, "parts": [], "saving": None, "input": None}
  if {"train", "pmap", "saving"} & set(sections) or profile:
    rows += _training(job, sections, profile, done)
  if "evaluate" in sections:
    say("evaluate step")
    rows.append(_row("evaluate step", runners.evaluating(*job[:3]), budget_s))
  for size in PREDICTED if "predict" in sections else ():
    say(f"predict {size}")
    runner = runners.predicting(*job[:3], size)
    rows.append(_row(f"predict {size}", runner, budget_s))
  if "parts" in sections:
    done["parts"] = _parts(job)
  if "input" in sections:
    say("input pipeline")
    speed = input_speed.measure(config, budget_s)
    done["input"] = speed
    rows.append(Row("input, all threads", speed.examples, speed.whole))
  if "transfer" in sections:
    say("host to devices")
    taken, _ = input_speed.to_devices(config, budget_s)
    rows.append(Row("copy to devices", config.train.batch_size, taken))
  again = ceiling.measure(config.model.compute_dtype, budget_s / 4)
  return Measured(ceiling=max(top, again), rows=rows, **done)


def say(what: str) -> None:
  """Progress, for whoever watches a terminal."""
  if sys.stderr.isatty():
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def _training(
  job: Job, sections: Sequence[str], profile: pathlib.Path | None, done: dict
) -> list[Row]:
  """The training step, and what is measured with it."""
  say("training step")
  runner, trainer = runners.training(*job[:3])
  rows = [_row("train step", runner, job.budget_s)] if "train" in sections else []
  if profile is not None:
    _trace(trainer, profile)
  if "saving" in sections:
    say("steps beside a save")
    done["saving"] = saving.measure(trainer, job.budget_s)
  if "pmap" in sections and jax.local_device_count() == 1:
    say("pmap against jit")
    plain = runners.plain_training(*job[:3])
    runs = {"pmap": trainer, "jit": plain}
    done["pmap"] = timing.interleaved(runs, 2 * job.budget_s)
  return rows


def _row(name: str, runner: Runner, budget_s: float) -> Row:
  taken = timing.one(runner.run, budget_s)
  return Row(
    name,
    runner.examples,
    taken,
    runner.flops,
    runner.memory_bytes,
    runner.compile_seconds,
  )


def _trace(trainer: Trainer, folder: pathlib.Path) -> None:
  jax.block_until_ready(trainer())
  with jax.profiler.trace(str(folder), create_perfetto_trace=True):
    for _ in range(PROFILED_STEPS):
      metrics = trainer()
    jax.block_until_ready(metrics)


def _parts(job: Job) -> list[Row]:
  say("parts of the training step")
  size = job.config.train.batch_size // jax.local_device_count()
  found = parts.measure(parts.of(*job[:3]), job.budget_s)
  rows = [Row(name, size, taken, flops) for name, (taken, flops) in found.items()]
  shared = parts.all_reduce(job.network, job.start, job.budget_s)
  return [*rows, Row("all-reduce", size, shared)]

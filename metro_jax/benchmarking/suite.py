"""What the benchmark measures, for one config on the devices here."""

import functools
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from metro_jax.benchmarking import input_speed, parts, runners, timing
from metro_jax.benchmarking.runners import Runner, Trainer
from metro_jax.benchmarking.timing import Timing
from metro_jax.models.setup import Network
from metro_jax.training.state import TrainState

SECTIONS = ("train", "evaluate", "predict", "input", "parts")
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
    per_core: Images a second that one core reads; 0 if nothing was read.
    is_part: Whether it is a part of the training step, alone.
  """

  name: str
  examples: int
  timing: Timing
  flops: float = 0.0
  memory_bytes: float = 0.0
  compile_seconds: float = 0.0
  per_core: float = 0.0
  is_part: bool = False


class Job:
  """What the sections need.

  Args:
    config: The whole config.
    network: Its network.
    budget_s: Seconds to repeat each measurement for.
  """

  def __init__(self, config: ConfigDict, network: Network, budget_s: float):
    self.config, self.network, self.budget_s = config, network, budget_s

  @functools.cached_property
  def start(self) -> TrainState:
    """The state that a run starts with, made when it is first needed."""
    return runners.fresh_state(self.config, self.network)


def measure(
  job: Job,
  sections: Sequence[str] = SECTIONS,
  profile: pathlib.Path | None = None,
) -> Iterator[Row]:
  """Runs the sections one after another, and yields each row as it is measured.

  Args:
    job: The config and its network.
    sections: Of `SECTIONS`.
    profile: Folder for a trace of a few training steps, for Perfetto or XProf.
  """
  if "train" in sections or profile is not None:
    yield from _training(job, "train" in sections, profile)
  if "evaluate" in sections:
    say("compiling evaluate step")
    runner = runners.evaluating(job.config, job.network, job.start)
    yield _row("evaluate step", runner, job.budget_s)
  for size in PREDICTED if "predict" in sections else ():
    say(f"compiling predict {size}")
    runner = runners.predicting(job.config, job.network, job.start, size)
    yield _row(f"predict {size}", runner, job.budget_s)
  if "input" in sections:
    say("reading pictures")
    speed = input_speed.measure(job.config, job.budget_s)
    name = "input, all threads"
    yield Row(name, speed.examples, speed.whole, per_core=speed.per_core)
  if "parts" in sections:
    yield from _parts(job)


def say(what: str) -> None:
  """Tells what takes a while, beside the table of results."""
  print(f"{what} …", file=sys.stderr, flush=True)


def _training(job: Job, timed: bool, profile: pathlib.Path | None) -> Iterator[Row]:
  say("compiling train step")
  runner, trainer = runners.training(job.config, job.network, job.start)
  if timed:
    yield _row("train step", runner, job.budget_s)
  if profile is not None:
    say(f"tracing {PROFILED_STEPS} train steps")
    _trace(trainer, profile)


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


def _parts(job: Job) -> Iterator[Row]:
  say("compiling the parts of the train step")
  size = job.config.train.batch_size // jax.local_device_count()
  for part in parts.of(job.config, job.network, job.start):
    taken, flops = parts.measure(part, job.budget_s)
    yield Row(part.name, size, taken, flops, is_part=True)
  shared = parts.all_reduce(job.network, job.start, job.budget_s)
  yield Row("all-reduce", size, shared, is_part=True)

"""How fast pictures become batches: ours, the original's way, and to the devices."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from metro_jax.benchmarking import original_input, pictures, timing
from metro_jax.benchmarking.timing import Timing
from metro_jax.cluster import parallel
from metro_jax.data import pipeline, schema
from metro_jax.data.pipeline import Source
from metro_jax.data.schema import Example

EXAMPLES = 128  # that a run decodes
MANY = 300_000  # rows of a split as large as METRO's


class InputSpeed(NamedTuple):
  """Images a second.

  Attributes:
    ours: CPU seconds of our pipeline for `examples` images, from nothing to the last
      batch, all its threads together.
    original: The same of the original's way.
    whole: Seconds that pass in our pipeline with the config's threads.
    examples: Of one run.
    cores: Of this machine.
  """

  ours: Timing
  original: Timing
  whole: Timing
  examples: int
  cores: int

  @property
  def per_core(self) -> float:
    """Images a second that one core decodes and augments."""
    return self.examples / self.ours.seconds

  @property
  def ratio(self) -> float:
    """How many times faster than the original's way, a core each."""
    return self.original.seconds / self.ours.seconds


def measure(
  config: ConfigDict, budget_s: float, examples: int = EXAMPLES
) -> InputSpeed:
  """Decodes and augments made-up photographs of 500 pixels, in turn.

  Args:
    config: The whole config; uses `data` and `body.model`.
    budget_s: For each comparison.
    examples: Images in a run.
  """
  labels = schema.labels_of(config.body.model)
  source = pictures.Pictures(labels, pictures.DIFFERENT)
  stored = _Stored([source[row] for row in range(pictures.DIFFERENT)])
  size = min(config.train.batch_size, examples)
  batches = examples // size
  settings = pictures.with_size(config, size)
  alone = pictures.with_size(config, size)
  with alone.unlocked():
    alone.data.read_threads = 1
  rng, steps = np.random.default_rng(0), itertools.count(step=batches)

  def ours() -> None:
    # None are read ahead, or the clock of one side would count work for the other.
    first = next(steps)
    for _ in pipeline.train_batches(stored, alone, first, end_step=first + batches):
      pass

  def original() -> None:
    for first in range(0, batches * size, size):
      original_input.batch(stored, range(first, first + size), config, rng)

  runs = {"ours": ours, "original": original}
  cpu = timing.interleaved(runs, budget_s, time.process_time)
  whole = timing.one(_reader(stored, settings, batches), budget_s)
  cores = os.cpu_count() or 1
  return InputSpeed(cpu["ours"], cpu["original"], whole, batches * size, cores)


def _reader(source: Source, config: ConfigDict, batches: int) -> Callable[[], None]:
  """Reads so many batches more of a training's endless ones."""
  endless = pipeline.train_batches(source, config)

  def read() -> None:
    for _ in range(batches):
      next(endless)

  return read


class _Stored:
  """A large split in memory, whose few examples come again and again."""

  name = "pictures/train"

  def __init__(self, examples: Sequence[Example]):
    self._examples = examples

  def __len__(self) -> int:
    return MANY

  def __getitem__(self, row: int) -> Example:
    return self._examples[row % len(self._examples)]


def to_devices(config: ConfigDict, budget_s: float) -> tuple[Timing, int]:
  """Copying a training batch to the devices; its time and its bytes."""
  batch = pictures.batch(config, config.train.batch_size)
  size = sum(np.asarray(x).nbytes for x in jax.tree.leaves(batch))
  return timing.one(lambda: parallel.shard(batch), budget_s), size

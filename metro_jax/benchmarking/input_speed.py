"""How fast pictures become batches: by one core, and by all threads."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from metro_jax.benchmarking import pictures, timing
from metro_jax.benchmarking.timing import Timing
from metro_jax.data import pipeline, schema
from metro_jax.data.pipeline import Source
from metro_jax.data.schema import Example

EXAMPLES = 128  # that a run decodes
MANY = 300_000  # rows of a split as large as METRO's


class InputSpeed(NamedTuple):
  """Seconds of decoding and augmenting images.

  Attributes:
    one_core: CPU seconds for `examples` images, from nothing to the last batch.
    whole: Seconds that pass with the config's threads.
    examples: Of one run.
  """

  one_core: Timing
  whole: Timing
  examples: int

  @property
  def per_core(self) -> float:
    """Images a second that one core decodes and augments."""
    return self.examples / self.one_core.seconds


def measure(
  config: ConfigDict, budget_s: float, examples: int = EXAMPLES
) -> InputSpeed:
  """Decodes and augments made-up photographs of 500 pixels.

  Args:
    config: The whole config; uses `data` and `body.model`.
    budget_s: For each of the two.
    examples: Images in a run.
  """
  source = stored(config)
  size = min(config.train.batch_size, examples)
  batches = examples // size
  settings = pictures.with_size(config, size)
  run = one_core(source, settings, batches)
  cpu = timing.one(run, budget_s, time.process_time)
  whole = timing.one(_reader(source, settings, batches), budget_s)
  return InputSpeed(cpu, whole, batches * size)


def one_core(source: Source, config: ConfigDict, batches: int) -> Callable[[], None]:
  """Returns what reads so many batches more each time, with one thread.

  None are read ahead, so that the clock counts no work of another run.
  """
  alone = pictures.with_size(config, config.train.batch_size)
  with alone.unlocked():
    alone.data.read_threads = 1
  steps = itertools.count(step=batches)

  def read() -> None:
    first = next(steps)
    for _ in pipeline.train_batches(source, alone, first, end_step=first + batches):
      pass

  return read


def _reader(source: Source, config: ConfigDict, batches: int) -> Callable[[], None]:
  """Returns what reads so many batches more of a training's endless ones each time."""
  endless = pipeline.train_batches(source, config)

  def read() -> None:
    for _ in range(batches):
      next(endless)

  return read


def stored(config: ConfigDict) -> Source:
  """Returns a large split in memory, whose few examples come again and again."""
  source = pictures.Pictures(schema.labels_of(config.body.model), pictures.DIFFERENT)
  return _Stored([source[row] for row in range(pictures.DIFFERENT)])


class _Stored:
  name = "pictures/train"

  def __init__(self, examples: Sequence[Example]):
    self._examples = examples

  def __len__(self) -> int:
    return MANY

  def __getitem__(self, row: int) -> Example:
    return self._examples[row % len(self._examples)]

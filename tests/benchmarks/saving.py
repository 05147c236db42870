"""What an asynchronous save costs the steps that go on meanwhile."""

import pathlib
import tempfile
import threading
import time
from typing import NamedTuple

import jax

from metro_jax.benchmarking import timing
from metro_jax.benchmarking.runners import Trainer
from metro_jax.benchmarking.timing import Timing
from metro_jax.checkpoints.checkpoint import Checkpoints
from metro_jax.cluster import parallel

SAVES = 4  # at most


class Saving(NamedTuple):
  """Steps with and without a save beside them.

  Attributes:
    alone: A step with nothing beside it.
    beside: A step while a save is under way.
    handing_over: Copying the state to the host and starting the save.
    saves: How many there were.
  """

  alone: Timing
  beside: Timing
  handing_over: Timing
  saves: int

  @property
  def ratio(self) -> float:
    """Median of the steps beside a save over that of the others."""
    return self.beside.seconds / self.alone.seconds


def measure(trainer: Trainer, budget_s: float) -> Saving:
  """Trains on while checkpoints are written to a folder that is then removed.

  Steps without a save come before every save, not all at the start: machines change
  their speed.

  Args:
    trainer: Goes on step by step.
    budget_s: For the steps without a save, and about for those beside one.
  """
  alone, beside, handing_over = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpoints(pathlib.Path(folder) / "checkpoints")
    with checkpoints:
      _timed(trainer)
      end = time.perf_counter() + 2 * budget_s
      for n in range(1, SAVES + 1):
        share = time.perf_counter() + budget_s / SAVES
        while time.perf_counter() < share or len(alone) < timing.FEWEST:
          alone.append(_timed(trainer))
        started = time.perf_counter()
        checkpoints.save(parallel.unreplicate(trainer.state), n, {"step": n})
        handing_over.append(time.perf_counter() - started)
        beside += _until_saved(trainer, checkpoints)
        if time.perf_counter() > end and len(beside) >= timing.FEWEST:
          break
  return Saving(*map(timing.summary, (alone, beside, handing_over)), saves=n)


def _until_saved(trainer: Trainer, checkpoints: Checkpoints) -> list[float]:
  """Seconds of the steps that begin while the save is under way."""
  waiting = threading.Thread(target=checkpoints.wait)
  waiting.start()
  taken = [_timed(trainer)]
  while waiting.is_alive():
    taken.append(_timed(trainer))
  waiting.join()
  return taken


def _timed(trainer: Trainer) -> float:
  started = time.perf_counter()
  jax.block_until_ready(trainer())
  return time.perf_counter() - started

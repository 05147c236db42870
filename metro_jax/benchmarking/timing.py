"""Timing functions: medians and spread, with what is compared run in turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

FEWEST, MOST = 3, 200  # repeats


class Timing(NamedTuple):
  """Seconds a run took, of several.

  Attributes:
    seconds: The median.
    low: The lower quartile.
    high: The upper quartile.
    repeats: How many runs there were.
  """

  seconds: float
  low: float
  high: float
  repeats: int

  @property
  def spread(self) -> float:
    """Distance of the quartiles, as a share of the median."""
    return (self.high - self.low) / self.seconds if self.seconds else 0.0


def summary(seconds: Sequence[float]) -> Timing:
  """Median and quartiles of at least one duration."""
  if len(seconds) == 1:
    return Timing(seconds[0], seconds[0], seconds[0], 1)
  low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
  return Timing(middle, low, high, len(seconds))


def interleaved(
  runs: Mapping[str, Callable[[], Any]],
  budget_s: float,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
  """Times functions in turn, so that what disturbs one disturbs all.

  Args:
    runs: Each returns arrays, which are waited for.
    budget_s: About how long to go on, after one run of each that does not count; every
      function runs at least `FEWEST` and at most `MOST` times, and one time more only
      if a run of them all took longer than this.
    clock: Seconds; `time.process_time` counts those of all cores.
  """
  begun = time.perf_counter()
  for run in runs.values():
    jax.block_until_ready(run())
  taken: dict[str, list[float]] = {name: [] for name in runs}
  now = time.perf_counter()
  end, fewest = now + budget_s, 1 if now - begun > budget_s else FEWEST
  for n in range(MOST):
    if n >= fewest and time.perf_counter() > end:
      break
    for name, run in runs.items():
      start = clock()
      jax.block_until_ready(run())
      taken[name].append(clock() - start)
  return {name: summary(seconds) for name, seconds in taken.items()}


def one(
  run: Callable[[], Any],
  budget_s: float,
  clock: Callable[[], float] = time.perf_counter,
) -> Timing:
  """Times one function; arguments as for `interleaved`."""
  return interleaved({"": run}, budget_s, clock)[""]

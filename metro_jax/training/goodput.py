"""How well a run uses its time and its devices, over interruptions too."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# What a run's wall time goes into. Restarts are all from the last line that is kept of
# an interrupted run to the next step: being down, starting, and steps made again.
KINDS = ("steps", "input", "validation", "saving", "compiling", "restarts")
PREFIX = "seconds/"


class Work(NamedTuple):
  """What training takes of the devices.

  Attributes:
    flops_per_image: Matrix products and convolutions of one image's share of a step.
    peak_flops: Of all devices of the run together, as published for bfloat16; 0 if
      nothing is.
  """

  flops_per_image: float
  peak_flops: float

  def speed(self, images_per_second: float) -> dict[str, float]:
    """Returns "flops_per_second" and its "share_of_peak", as far as they are known."""
    if not self.flops_per_image:
      return {}
    flops = self.flops_per_image * images_per_second
    found = {"flops_per_second": flops}
    if self.peak_flops:
      found["share_of_peak"] = flops / self.peak_flops
    return found


UNKNOWN = Work(0.0, 0.0)


class Goodput:
  """Counts a run's wall time by what it does with it.

  Args:
    lines: Of the run's metrics file, to the step that it goes on from.
    clock: Seconds since the epoch.
  """

  def __init__(
    self,
    lines: Iterable[Mapping[str, Any]] = (),
    clock: Callable[[], float] = time.time,
  ):
    self._clock = clock
    self._seconds, self._mark = spent(lines)
    if self._mark:
      self._count("restarts")
    self._mark = clock()

  @contextlib.contextmanager
  def during(self, kind: str) -> Iterator[None]:
    """Counts what happens inside for one of `KINDS`; all else is for steps."""
    self._count("steps")
    try:
      yield
    finally:
      self._count(kind)

  def values(self) -> dict[str, float]:
    """Returns the seconds of each kind since the run began, and the steps' share."""
    self._count("steps")
    total = sum(self._seconds.values())
    share = self._seconds["steps"] / total if total else 0.0
    named = {PREFIX + kind: seconds for kind, seconds in self._seconds.items()}
    return {"goodput": share, **named}

  def _count(self, kind: str) -> None:
    now = self._clock()
    self._seconds[kind] += max(now - self._mark, 0.0)  # a clock may be set back
    self._mark = now


def spent(lines: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], float]:
  """Reads off a metrics file where the time went.

  A validation after the last training line ends with its own line.

  Returns:
    Seconds by kind, and when the last line was written; zeros if nothing was counted.
  """
  seconds, since = dict.fromkeys(KINDS, 0.0), 0.0
  for line in lines:
    if PREFIX + "steps" in line:
      seconds, since = {kind: line[PREFIX + kind] for kind in KINDS}, line["time"]
    elif since and line["group"] == "validation":
      seconds["validation"] += max(line["time"] - since, 0.0)
      since = line["time"]
  return seconds, since


def flops_text(flops_per_second: float) -> str:
  """Returns a speed with three digits and its unit."""
  unit, size = ("T", 1e12) if flops_per_second >= 1e12 else ("G", 1e9)
  return f"{flops_per_second / size:.3g} {unit}FLOP/s"

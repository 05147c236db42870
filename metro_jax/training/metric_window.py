"""Training metrics between two log lines, averaged only when they are asked for."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from metro_jax.cluster import parallel

STEPS_AHEAD = 2  # how far the host may run ahead of the devices


class NotFiniteError(FloatingPointError):
  """The loss or the gradient of a step was not finite.

  Attributes:
    step: Which one, from 1.
  """

  def __init__(self, step: int, what: str, value: float):
    self.step = step
    super().__init__(f"step {step}: expected a finite {what}, got {value}")


class Window:
  """Training metrics since the last log line, still on the devices.

  Args:
    datasets: Names of a mixture's datasets, in the order of the metrics "datasets".
  """

  def __init__(self, datasets: Sequence[str] = ()):
    self._datasets = tuple(datasets)
    self._metrics: list[dict[str, Any]] = []

  def add(self, metrics: dict[str, Any]) -> None:
    """Takes a step's metrics; waits if the devices are far behind."""
    self._metrics.append(metrics)
    if len(self._metrics) > STEPS_AHEAD:
      jax.block_until_ready(self._metrics[-1 - STEPS_AHEAD])

  def mean(self, step: int) -> dict[str, float]:
    """Averages and forgets.

    Args:
      step: Number of the last step that was added.

    Returns:
      Every metric by name; of a mixture also "DATASET/loss" and "DATASET/mpjpe_mm",
      means over the examples since the last call, where there were any.

    Raises:
      NotFiniteError: If the loss or the gradient of a step was not finite.
    """
    rows = [parallel.unreplicate(metrics) for metrics in self._metrics]
    self._metrics.clear()
    groups = [row.pop("datasets") for row in rows if "datasets" in row]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    for number, row in enumerate(rows, step - len(rows) + 1):
      for name, what in (("loss", "loss"), ("gradient_norm", "gradient")):
        if not math.isfinite(row.get(name, 0)):
          raise NotFiniteError(number, what, float(row[name]))
    return means | self._by_dataset(groups)

  def _by_dataset(self, groups: list[dict[str, np.ndarray]]) -> dict[str, float]:
    found = {}
    for place, dataset in enumerate(self._datasets if groups else ()):
      for name, count in (("loss", "examples"), ("mpjpe_mm", "labelled")):
        total, number = (
          sum(group[key][place] for group in groups) for key in (name, count)
        )
        if number > 0:
          found[f"{dataset}/{name}"] = float(total / number)
    return found

"""Several datasets as one: concatenated, or mixed by weights, in one endless order.

Concatenated, an epoch is every example of every dataset once, shuffled together.
With weights, each dataset has epochs of its own, and the order takes from them in
turn so that after n places dataset i has given n w_i / Σ w, to within one.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any

import grain

from metro_jax.data.schema import Example


class Mixture:
  """Splits of several datasets as one split; rows count through them in order.

  Args:
    sources: Splits (`pipeline.Source`).
    weights: Shares of the places in the training's order, one a split; empty for
      every example once an epoch.

  Raises:
    ValueError: If a split is empty, or the weights are not one positive number each.
  """

  def __init__(self, sources: Sequence[Any], weights: Sequence[float | int] = ()):
    for source in sources:
      if len(source) == 0:
        raise ValueError(f"{source.name}: expected at least one example, got none")
    if weights and (len(weights) != len(sources) or min(weights) <= 0):
      raise ValueError(
        f"config.data.weights: expected {len(sources)} positive numbers, one a "
        f"dataset of config.data.train, got {tuple(weights)}"
      )
    self.sources, self.weights = tuple(sources), tuple(weights)
    self.ends = tuple(itertools.accumulate(len(source) for source in sources))
    shares = [f"{weight:g} " for weight in weights] or [""] * len(sources)
    pairs = zip(shares, sources, strict=True)
    self.name = " + ".join(share + source.name for share, source in pairs)

  @property
  def built(self) -> str:
    """Tells apart what was built at other times, as of `SplitSource`."""
    return " ".join(getattr(source, "built", "") for source in self.sources)

  def __len__(self) -> int:
    return self.ends[-1]

  def __getitem__(self, row: int) -> Example:
    row = range(len(self))[row]
    place = self.part(row)
    return self.sources[place][row - self.ends[place] + len(self.sources[place])]

  def part(self, row: int) -> int:
    """The place of the split that a row belongs to."""
    return bisect.bisect_right(self.ends, row)


def part(source: Any, row: int) -> int:
  """The place of a row's dataset in a mixture; 0 of a single dataset."""
  return source.part(row) if isinstance(source, Mixture) else 0


def order(source: Any, seed: int) -> grain.MapDataset:
  """The endless order in which training takes rows.

  Args:
    source: A split or a mixture.
    seed: Of the shuffles; every epoch has its own.

  Returns:
    order[place] is a row, for any place from 0, without state.
  """
  if not isinstance(source, Mixture) or not source.weights:
    return _shuffled(0, len(source), seed)
  starts = (0, *source.ends[:-1])
  parts = [
    _shuffled(start, end - start, seed + place)
    for place, (start, end) in enumerate(zip(starts, source.ends, strict=True))
  ]
  total = sum(source.weights)
  return grain.MapDataset.mix(parts, [weight / total for weight in source.weights])


def _shuffled(start: int, count: int, seed: int) -> grain.MapDataset:
  rows = grain.MapDataset.range(start, start + count)
  return rows.seed(seed).shuffle().repeat()

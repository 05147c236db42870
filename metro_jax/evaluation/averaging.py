"""Means over a split: every example once, or as the original code took them.

The original code's means differ from the exact ones in three ways, which this file
repeats so that its published numbers can be compared:

1. Examples are dealt out to the ranks in turn, repeated from the start until all ranks
   have equally many. Each rank takes a mean of its own; these are averaged as if all
   ranks had labelled equally many.
2. PA-MPJPE's mean of a batch is over all of its examples, those without 3D labels with
   an error of 0, and the batch weighs as much as it has examples with 3D labels.
3. The other errors of a batch are over the labelled ones, and weighed by them.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

RANKS = 8  # of the original evaluation command, docs/EXP.md
BATCH_SIZES = {"body": 30, "hand": 32}  # a rank, in the same command
_OVER_ALL = "pa_mpjpe_mm"


def original_means(
  errors: Mapping[str, Float[np.ndarray, " n"]],
  batch_size: int,
  ranks: int = RANKS,
) -> dict[str, float]:
  """Computes the original code's mean of each metric.

  Args:
    errors: Per metric, of every example of the split in order; NaN without the label.
    batch_size: Examples a rank evaluates at once.
    ranks: Processes that share the split.

  Returns:
    Per metric; NaN if a rank had no labelled example.

  Source: metro/tools/run_metro_bodymesh.py, `run_validate`; `DistributedSampler`.
  """
  return {
    name: float(
      np.mean(
        [_rank_mean(name, values, rank, ranks, batch_size) for rank in range(ranks)]
      )
    )
    for name, values in errors.items()
  }


def _rank_mean(
  name: str, values: np.ndarray, rank: int, ranks: int, batch_size: int
) -> float:
  """What one rank's running mean ends at."""
  values = np.asarray(values, np.float64)
  total = -(-len(values) // ranks) * ranks
  mine = values[np.arange(rank, total, ranks) % len(values)]
  weighted, weight = 0.0, 0
  for start in range(0, len(mine), batch_size):
    batch = mine[start : start + batch_size]
    labelled = np.isfinite(batch)
    count = int(labelled.sum())
    if not count:
      continue
    over_all = name == _OVER_ALL
    mean = np.where(labelled, batch, 0).mean() if over_all else batch[labelled].mean()
    weighted, weight = weighted + count * mean, weight + count
  return weighted / weight if weight else np.nan

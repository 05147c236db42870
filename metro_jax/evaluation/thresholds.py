"""Shares of points within a distance: 3D PCK, its AUC, FreiHAND's AUC and F-score.

Every number is one example's, so that the mean over examples counts each once. Where
all examples have the same points it equals the number that the benchmarks' own
scripts compute over all points at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from metro_jax.evaluation.metrics import mean_of_known

Array = jax.Array
PCK_MM = 150.0  # about half of a head
PCK_STEPS_MM = np.arange(0.0, PCK_MM + 1, 5.0)
HAND_STEPS_MM = np.linspace(0.0, 50.0, 100)
F_SCORES_MM = (5.0, 15.0)


def pck(
  distances_mm: Float[Any, "b n"],
  known: Bool[Any, "b n"] | None = None,
  threshold_mm: float = PCK_MM,
) -> Float[Array, " b"]:
  """Computes the share of the points closer than a threshold.

  PCK = 1/N #{i: d_i < threshold}

  Args:
    distances_mm: Of the points from their counterparts.
    known: Which points count; all if None.
    threshold_mm: 150 in the benchmark.

  Returns:
    Between 0 and 1, one an example.

  Source: Mehta et al., "Monocular 3D human pose estimation in the wild using improved
    CNN supervision", 3DV 2017, section 6; MPI-INF-3DHP's mpii_compute_3d_pck.m.
  """
  return mean_of_known((distances_mm < threshold_mm).astype(distances_mm.dtype), known)


def pck_auc(
  distances_mm: Float[Any, "b n"], known: Bool[Any, "b n"] | None = None
) -> Float[Array, " b"]:
  """Averages `pck` over the thresholds 0, 5, ..., 150 mm.

  The threshold 0 counts although nothing is closer, so the best value is 30/31.

  Source: as `pck`; there it is called the area under the curve.
  """
  steps = jnp.asarray(PCK_STEPS_MM, distances_mm.dtype)
  reached = (distances_mm[..., None] < steps).mean(-1, dtype=distances_mm.dtype)
  return mean_of_known(reached, known)


def hand_auc(
  distances_mm: Float[Any, "b n"], known: Bool[Any, "b n"] | None = None
) -> Float[Array, " b"]:
  """Computes the area under the share of points within t, 0 to 50 mm, over 50 mm.

  AUC = ∫ 1/N #{i: d_i <= t} dt / 50 mm, by the trapezoid rule at 100 values of t.

  Args:
    distances_mm: Of the points from their counterparts.
    known: Which points count; all if None.

  Returns:
    Between 0 and 1, one an example.

  Source: FreiHAND, eval.py, `get_measures(0.0, 0.05, 100)`.
  """
  steps = jnp.asarray(HAND_STEPS_MM, distances_mm.dtype)
  widths = np.full(len(HAND_STEPS_MM), 1.0 / (len(HAND_STEPS_MM) - 1))
  widths[[0, -1]] /= 2
  share = jnp.asarray(widths, distances_mm.dtype)
  reached = jnp.where(distances_mm[..., None] <= steps, share, 0).sum(-1)
  return mean_of_known(reached, known)


def f_scores(
  predicted_m: Float[Any, "b n 3"], target_m: Float[Any, "b m 3"]
) -> Float[Array, "b t"]:
  """Computes two shares' harmonic mean: predicted points near true ones, and reverse.

  F = 2 P R / (P + R), with R the share of predicted points whose nearest true point is
  closer than the threshold and P the share of true points whose nearest predicted
  point is; 0 where both are.

  Args:
    predicted_m: Predicted vertices, aligned as the protocol wants them.
    target_m: True vertices; they need not correspond.

  Returns:
    Between 0 and 1, one per example and threshold of `F_SCORES_MM`.

  Source: Knapitsch et al., "Tanks and temples", 2017; FreiHAND, eval.py,
    `calculate_fscore`, which names the two the other way round.
  """

  def one(pair: tuple[Array, Array]) -> Array:
    predicted, target = pair
    gaps = jnp.square(predicted[:, None] - target[None]).sum(-1)
    limits = jnp.asarray(F_SCORES_MM, gaps.dtype) / 1000
    near = [jnp.sqrt(gaps.min(axis))[:, None] < limits for axis in (1, 0)]
    recall, precision = (shares.mean(0, dtype=gaps.dtype) for shares in near)
    both = recall + precision
    return 2 * recall * precision / jnp.where(both > 0, both, 1)

  return jax.lax.map(one, (jnp.asarray(predicted_m), jnp.asarray(target_m)))

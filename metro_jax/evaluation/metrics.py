"""Distances of predicted points in millimetres, alignment, and means over examples."""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from metro_jax.body import rotations

Array = jax.Array
NAMES = ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm")  # those that papers always give
_MM = 1000.0
_PRECISION = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Similarity:
  """Scale, proper rotation and shift: x -> scale R x + shift, per example."""

  scale: Float[Array, " b"]
  rotation: Float[Array, "b 3 3"]
  shift: Float[Array, "b 3"]


def distances_mm(
  predicted_m: Float[Any, "b n 3"], target_m: Float[Any, "b n 3"]
) -> Float[Array, "b n"]:
  """Measures each point's distance from its counterpart, millimetres."""
  return _MM * jnp.linalg.norm(predicted_m - target_m, axis=-1)


def mean_of_known(
  values: Float[Array, "b n"], known: Bool[Any, "b n"] | None = None
) -> Float[Array, " b"]:
  """Averages over the points of each example that are known; 0 where none is.

  Args:
    values: One a point; anything where the point is not known, NaN included.
    known: Which points count; all if None.
  """
  if known is None:
    return values.mean(-1)
  count = jnp.maximum(known.sum(-1), 1)
  return jnp.where(known, values, 0).sum(-1) / count


def aligned(
  predicted_m: Float[Any, "b n 3"],
  target_m: Float[Any, "b n 3"],
  known: Bool[Any, "b n"] | None = None,
  proper: bool = True,
) -> Float[Array, "b n 3"]:
  """Moves predicted points by their best similarity; see `similarity`."""
  transform = similarity(predicted_m, target_m, known, proper)
  return apply_similarity(transform, predicted_m)


def similarity(
  source: Float[Any, "b n 3"],
  target: Float[Any, "b n 3"],
  known: Bool[Any, "b n"] | None = None,
  proper: bool = True,
) -> Similarity:
  """Finds the similarity that brings points closest to others.

  K = Σ_i p_i q_iᵀ = U S Vᵀ of the centred points, Z = diag(1, 1, det(U Vᵀ)):
  R = V Z Uᵀ, s = tr(S Z) / Σ_i ||p_i||², t = q̄ - s R p̄.

  Args:
    source: The points to move.
    target: Where they should come.
    known: Which points decide; all if None. Fewer than 3 leave the turn undecided.
    proper: Whether mirror images are refused, as everywhere but on FreiHAND's
      leaderboard; Z is the identity otherwise.

  Returns:
    One similarity an example. Points that coincide give scale 0, not NaN.

  Raises:
    ValueError: If there are fewer than 3 points; the rotation is then not unique.

  Source: Umeyama 1991, eq. 40-42.
  """
  if source.shape[1] < 3:
    raise ValueError(
      f"similarity: expected at least 3 points, got {source.shape[1]}; "
      "the rotation is not unique"
    )
  source_mean, target_mean = _centre(source, known), _centre(target, known)
  p, q = source - source_mean[:, None], target - target_mean[:, None]
  if known is not None:
    p, q = (jnp.where(known[..., None], points, 0) for points in (p, q))
  covariance = jnp.einsum("bni,bnj->bji", p, q, precision=_PRECISION)
  with jax.default_matmul_precision("highest"):
    rotation = rotations.nearest_rotation(covariance, proper)
  spread = jnp.square(p).sum((1, 2))
  scale = (rotation * covariance).sum((1, 2)) / jnp.where(spread > 0, spread, 1)
  moved = jnp.einsum("b,bij,bj->bi", scale, rotation, source_mean, precision=_PRECISION)
  return Similarity(scale, rotation, target_mean - moved)


def _centre(
  points: Float[Any, "b n 3"], known: Bool[Any, "b n"] | None
) -> Float[Array, "b 3"]:
  if known is None:
    return jnp.asarray(points).mean(1)
  count = jnp.maximum(known.sum(-1, keepdims=True), 1)
  return jnp.where(known[..., None], points, 0).sum(1) / count


def apply_similarity(
  transform: Similarity, points: Float[Any, "b n 3"]
) -> Float[Array, "b n 3"]:
  """Moves points: scale R x + shift."""
  turned = jnp.einsum(
    "bij,bnj->bni", transform.rotation, jnp.asarray(points), precision=_PRECISION
  )
  return transform.scale[:, None, None] * turned + transform.shift[:, None]


def count_and_sum(
  errors: Mapping[str, Float[Array, " b"]], counted: Mapping[str, Bool[Array, " b"]]
) -> dict[str, dict[str, Array]]:
  """Gives sum and number of each error over the examples that count.

  Args:
    errors: Per metric, one error an example.
    counted: Per metric, whether the example is real and has the label. The errors of
      the others may be anything, NaN included.

  Returns:
    {"sum": {metric: ...}, "count": {metric: ...}}, which may be added up.
  """
  kept = {name: jnp.where(counted[name], errors[name], 0).sum() for name in errors}
  return {"sum": kept, "count": {name: counted[name].sum() for name in errors}}


def means(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
  """Averages each metric over all parts that `count_and_sum` made.

  Sums are added in float64 on the host. A metric that no example has is NaN.
  """
  sums: dict[str, float] = {}
  counts: dict[str, int] = {}
  for part in parts:
    for name, value in part["sum"].items():
      sums[name] = sums.get(name, 0.0) + float(np.float64(value))
      counts[name] = counts.get(name, 0) + int(part["count"][name])
  return {name: sums[name] / counts[name] if counts[name] else np.nan for name in sums}

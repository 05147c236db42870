"""Errors of predicted bodies in millimetres, per example.

Points come in metres. `mpjpe_mm` and `mpvpe_mm` compare as they are given: centre
both sides first, joints with `from_hips`, meshes with their own pelvis.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from metro_jax.training.losses import from_hips

__all__ = [
  "NAMES",
  "Similarity",
  "apply_similarity",
  "count_and_sum",
  "from_hips",
  "means",
  "mpjpe_mm",
  "mpvpe_mm",
  "pa_mpjpe_mm",
  "similarity",
]

Array = jax.Array
NAMES = ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm")
_MM = 1000.0
_PRECISION = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Similarity:
  """Scale, proper rotation and shift: x -> scale R x + shift, per example."""

  scale: Float[Array, " b"]
  rotation: Float[Array, "b 3 3"]
  shift: Float[Array, "b 3"]


def mpjpe_mm(
  predicted_m: Float[Any, "b j 3"], target_m: Float[Any, "b j 3"]
) -> Float[Array, " b"]:
  """Mean distance of corresponding joints, per example.

  e = 1/J Σ_j ||p_j - q_j||

  Args:
    predicted_m: Predicted joints, centred as the protocol wants them.
    target_m: True joints, centred likewise.

  Returns:
    Millimetres, one per example.
  """
  return _MM * jnp.linalg.norm(predicted_m - target_m, axis=-1).mean(-1)


def mpvpe_mm(
  predicted_m: Float[Any, "b v 3"], target_m: Float[Any, "b v 3"]
) -> Float[Array, " b"]:
  """Mean distance of corresponding vertices, per example; see `mpjpe_mm`."""
  return mpjpe_mm(predicted_m, target_m)


def pa_mpjpe_mm(
  predicted_m: Float[Any, "b j 3"], target_m: Float[Any, "b j 3"]
) -> Float[Array, " b"]:
  """Joint error after the best similarity alignment, per example.

  e = 1/J Σ_j ||s R p_j + t - q_j|| with (s, R, t) minimising the squared error over
  s ≥ 0 and det R = +1.

  Args:
    predicted_m: Predicted joints in metres, any common frame.
    target_m: True joints in metres.

  Returns:
    Millimetres, one per example.

  Raises:
    ValueError: If there are fewer than 3 joints; the rotation is then not unique.

  Source: Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", TPAMI 1991; released code, metro/utils/metric_pampjpe.py.
  """
  aligned = apply_similarity(similarity(predicted_m, target_m), predicted_m)
  return mpjpe_mm(aligned, target_m)


def similarity(source: Float[Any, "b n 3"], target: Float[Any, "b n 3"]) -> Similarity:
  """The similarity that brings points closest to others.

  K = Σ_i p_i q_iᵀ = U S Vᵀ of the centred points, Z = diag(1, 1, det(U Vᵀ)):
  R = V Z Uᵀ, s = tr(S Z) / Σ_i ||p_i||², t = q̄ - s R p̄.

  Args:
    source: The points to move.
    target: Where they should come.

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
  source_mean, target_mean = source.mean(1), target.mean(1)
  p, q = source - source_mean[:, None], target - target_mean[:, None]
  covariance = jnp.einsum("bni,bnj->bij", p, q, precision=_PRECISION)
  u, s, vt = jnp.linalg.svd(covariance)
  turn = jnp.einsum("bij,bjk->bik", u, vt, precision=_PRECISION)
  sign = jnp.stack([jnp.ones_like(s[:, 0])] * 2 + [jnp.sign(_det(turn))], axis=-1)
  rotation = jnp.einsum("bji,bj,bkj->bik", vt, sign, u, precision=_PRECISION)
  spread = jnp.square(p).sum((1, 2))
  scale = (s * sign).sum(-1) / jnp.where(spread > 0, spread, 1)
  moved = jnp.einsum("b,bij,bj->bi", scale, rotation, source_mean, precision=_PRECISION)
  return Similarity(scale, rotation, target_mean - moved)


def apply_similarity(
  transform: Similarity, points: Float[Any, "b n 3"]
) -> Float[Array, "b n 3"]:
  """Moves points: scale R x + shift."""
  turned = jnp.einsum(
    "bij,bnj->bni", transform.rotation, jnp.asarray(points), precision=_PRECISION
  )
  return transform.scale[:, None, None] * turned + transform.shift[:, None]


def _det(m: Float[Array, "b 3 3"]) -> Float[Array, " b"]:
  """By the rule of Sarrus; needs no matrix decomposition on the device."""
  return (m[:, 0] * jnp.cross(m[:, 1], m[:, 2])).sum(-1)


def count_and_sum(
  errors: Mapping[str, Float[Array, " b"]], counted: Mapping[str, Bool[Array, " b"]]
) -> dict[str, dict[str, Array]]:
  """Sum and number of each error over the examples that count.

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
  """The mean of each metric over all parts that `count_and_sum` made.

  Sums are added in float64 on the host. A metric that no example has is NaN.
  """
  sums: dict[str, float] = {}
  counts: dict[str, int] = {}
  for part in parts:
    for name, value in part["sum"].items():
      sums[name] = sums.get(name, 0.0) + float(np.float64(value))
      counts[name] = counts.get(name, 0) + int(part["count"][name])
  return {name: sums[name] / counts[name] if counts[name] else np.nan for name in sums}

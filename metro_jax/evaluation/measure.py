"""Every number of `protocols.METRICS` for a batch of predicted meshes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from metro_jax.evaluation import metrics, protocols, thresholds
from metro_jax.models.targets import ROOTS, Targets, from_root

Array = Any  # of one device
_FEWEST_JOINTS = 3  # that decide an alignment


class Measured(NamedTuple):
  """What predictions are worth, per example.

  Attributes:
    errors: Per metric, (b,); anything where it does not count.
    counted: Per metric, (b,): the example is valid and has the label.
    joint_errors_mm: "mpjpe_mm" and "pa_mpjpe_mm" per joint, (b, j); NaN where the
      joint or the origin is not labelled.
  """

  errors: dict[str, Float[Array, " b"]]
  counted: dict[str, Bool[Array, " b"]]
  joint_errors_mm: dict[str, Float[Array, "b j"]]


class _Distances(NamedTuple):
  """Of joints or vertices from the true ones, and which examples count."""

  centred: Array
  aligned: Array
  counted: Array
  aligned_counted: Array
  known: Array | None  # which points; None for all


def measure(
  vertices_m: Float[Array, "b v 3"],
  joints_m: Float[Array, "b j 3"],
  targets: Targets,
  root: str,
) -> Measured:
  """Compares predictions with their labels.

  Joints whose label has confidence 0 are left out of an example's means. MPJPE needs
  the joints of the root, an alignment at least three.

  Args:
    vertices_m: Predicted full meshes, from their own regressed root.
    joints_m: The joints regressed from them, in any origin.
    targets: The labels.
    root: The joints' origin, a key of `targets.ROOTS`; "wrist" for hands.

  Returns:
    `protocols.BODY_METRICS` or, for hands, `protocols.HAND_METRICS`.
  """
  joint = _joint_distances(joints_m, targets, root)
  true_m = targets.vertices[-1]
  aligned_m = metrics.aligned(vertices_m, true_m)
  mesh = _Distances(
    metrics.distances_mm(vertices_m, true_m),
    metrics.distances_mm(aligned_m, true_m),
    *(targets.has_mesh, targets.has_mesh, None),
  )
  errors = {
    "mpvpe_mm": mesh.centred.mean(-1),
    "mpjpe_mm": metrics.mean_of_known(joint.centred, joint.known),
    "pa_mpjpe_mm": metrics.mean_of_known(joint.aligned, joint.known),
    "pa_mpvpe_mm": mesh.aligned.mean(-1),
  }
  if root == "wrist":
    errors |= _of_hands(joint, mesh, aligned_m, true_m)
  else:
    errors |= _of_bodies(joint)
  of = {"joints": joint, "mesh": mesh}
  counted = {}
  for name in errors:
    kind = of[protocols.METRICS[name].label]
    counted[name] = kind.aligned_counted if name.startswith("pa_") else kind.counted
  return Measured(errors, counted, _per_joint(joint))


def _joint_distances(joints_m: Array, targets: Targets, root: str) -> _Distances:
  true_m, known = targets.joints_3d[..., :3], targets.joints_3d[..., 3] > 0
  has = targets.has_joints_3d
  centred = metrics.distances_mm(from_root(joints_m, root), from_root(true_m, root))
  aligned_m = metrics.aligned(joints_m, true_m, known)
  return _Distances(
    centred,
    metrics.distances_mm(aligned_m, true_m),
    has & known[:, ROOTS[root]].all(-1),
    has & (known.sum(-1) >= _FEWEST_JOINTS),
    known,
  )


def _of_bodies(joint: _Distances) -> dict[str, Array]:
  return {
    "pck_150mm": thresholds.pck(joint.centred, joint.known),
    "auc_150mm": thresholds.pck_auc(joint.centred, joint.known),
    "pa_pck_150mm": thresholds.pck(joint.aligned, joint.known),
    "pa_auc_150mm": thresholds.pck_auc(joint.aligned, joint.known),
  }


def _of_hands(
  joint: _Distances, mesh: _Distances, aligned_m: Array, true_m: Array
) -> dict[str, Array]:
  near, far = jnp.moveaxis(thresholds.f_scores(aligned_m, true_m), -1, 0)
  return {
    "pa_f_5mm": near,
    "pa_f_15mm": far,
    "pa_auc_50mm": thresholds.hand_auc(joint.aligned, joint.known),
    "pa_mesh_auc_50mm": thresholds.hand_auc(mesh.aligned),
  }


def _per_joint(joint: _Distances) -> dict[str, Array]:
  def kept(values: Array, counted: Array) -> Array:
    return jnp.where(joint.known & counted[:, None], values, jnp.nan)

  return {
    "mpjpe_mm": kept(joint.centred, joint.counted),
    "pa_mpjpe_mm": kept(joint.aligned, joint.aligned_counted),
  }

"""What the network is trained on: the paper's loss and the released code's.

Both are functions of one prediction and its targets. Every term is a mean over the
examples that carry its label, of all devices together. A device cannot see the
others' examples, so it divides its own sum by the mean count a device:

  L = Σ_d S_d / Σ_d N_d = mean_d (S_d / mean_e N_e)

The mean over devices of what each returns is therefore the loss of the whole batch,
and since the counts do not depend on the parameters, the mean of the devices'
gradients is its gradient. One device and eight give the same numbers.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from metro_jax.body import body_model, camera, joints
from metro_jax.models.metro import Prediction

Array = Any  # np.ndarray or jax.Array
HIPS = joints.index(joints.J14, ("R_Hip", "L_Hip"))

RELEASED_JOINTS = 1000.0
RELEASED_VERTICES = 100.0
RELEASED_PROJECTION = 100.0
RELEASED_LEVEL = 0.33


@flax.struct.dataclass
class Targets:
  """What a batch says the answer is; labels that are missing are zeros.

  Attributes:
    vertices: Per mesh level, coarse to fine, metres, camera frame, the H36M pelvis
      of the full mesh at the origin.
    joints_3d: The J14 in metres, any origin, and their confidence.
    joints_2d: The J14 in crop coordinates [-1, 1] and their confidence.
    has_mesh: Which examples have vertices.
    has_joints_3d: Which have 3D joints.
    has_joints_2d: Which have 2D joints.
  """

  vertices: tuple[Float[Array, "b _ 3"], ...]
  joints_3d: Float[Array, "b j 4"]
  joints_2d: Float[Array, "b j 3"]
  has_mesh: Bool[Array, " b"]
  has_joints_3d: Bool[Array, " b"]
  has_joints_2d: Bool[Array, " b"]


@flax.struct.dataclass
class Losses:
  """The weighted total and its terms before their weights, this device's share."""

  total: Float[Array, ""]
  vertices: Float[Array, ""]
  joints: Float[Array, ""]
  regressed_joints: Float[Array, ""]
  projection: Float[Array, ""]


def compute(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  config: ConfigDict,
  axis_name: str | None = None,
) -> Losses:
  """The recipe that `config.recipe` names; `config` is the loss section."""
  if config.recipe == "released":
    return released(prediction, targets, joint_regressor, axis_name)
  return paper(prediction, targets, joint_regressor, config, axis_name)


def paper(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  weights: ConfigDict,
  axis_name: str | None = None,
) -> Losses:
  """The paper's loss.

  L = α (w_V L_V + w_J L_J + w_R L_J^reg) + β w_P L_J^proj

  with L_V = 1/V Σ_i ||V_i - V̄_i||_1 and the joint terms likewise; α and β are the
  example's flags for 3D and 2D labels.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The J14 from the full mesh.
    weights: `vertices`, `joints`, `regressed_joints`, `projection` and
      `vertex_levels`, the share of each mesh level, coarse to fine.
    axis_name: The mapped axis of the devices, None outside a map.

  Returns:
    This device's share; its mean over the axis is the loss of the whole batch.

  Source: METRO section 3.4, eq. 2-6. Where the paper is silent we follow the released
    code: every mesh level has its loss, 3D joints are compared from the mid-hip, the
    projection term adds those of the predicted and of the regressed joints, and a
    joint counts by its confidence. α asks for the label that the term needs: a mesh
    for L_V, 3D joints for L_J and L_J^reg.
  """
  regressed = _regress(joint_regressor, prediction.vertices[-1])

  def joint_term(predicted: Array) -> Array:
    errors = _joint_errors(predicted, targets.joints_3d, jnp.abs).sum(-1).mean(-1)
    return _labelled_mean(errors, targets.has_joints_3d, axis_name)

  def projection_term(points: Array) -> Array:
    predicted = camera.weak_perspective(points, prediction.camera)
    errors = _projection_errors(predicted, targets.joints_2d, jnp.abs)
    return _labelled_mean(errors.sum(-1).mean(-1), targets.has_joints_2d, axis_name)

  vertices = sum(
    share * _labelled_mean(errors.sum(-1).mean(-1), targets.has_mesh, axis_name)
    for share, errors in zip(
      weights.vertex_levels, _vertex_errors(prediction, targets), strict=True
    )
  ) / sum(weights.vertex_levels)
  direct, mesh = joint_term(prediction.joints), joint_term(regressed)
  projection = projection_term(prediction.joints) + projection_term(regressed)
  total = (
    weights.vertices * vertices
    + weights.joints * direct
    + weights.regressed_joints * mesh
    + weights.projection * projection
  )
  return Losses(total, vertices, direct, mesh, projection)


def released(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  axis_name: str | None = None,
) -> Losses:
  """The released code's loss.

  L = 1000 (L_J + L_J^reg) + 100 L_V + 100 L_J^proj

  Joint terms are squared errors times confidence, vertices are L1 with 0.33 on each
  level; all are means over every element, coordinates included. The 2D term ignores
  its flag: where 2D labels are missing their confidence must be 0, and such examples
  still count in the mean.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The J14 from the full mesh.
    axis_name: The mapped axis of the devices, None outside a map.

  Returns:
    This device's share; its mean over the axis is the loss of the whole batch.

  Source: released code, metro/tools/run_metro_bodymesh.py:216-264. On purpose, a
    mean is over the labelled examples of all devices; there, over each GPU's own, so
    that an example weighed more beside unlabelled ones. On one device both agree.
  """
  regressed = _regress(joint_regressor, prediction.vertices[-1])

  def joint_term(predicted: Array) -> Array:
    errors = _joint_errors(predicted, targets.joints_3d, jnp.square).mean((-2, -1))
    return _labelled_mean(errors, targets.has_joints_3d, axis_name)

  def projection_term(points: Array) -> Array:
    predicted = camera.weak_perspective(points, prediction.camera)
    return _projection_errors(predicted, targets.joints_2d, jnp.square).mean()

  vertices = sum(
    RELEASED_LEVEL * _labelled_mean(errors.mean((-2, -1)), targets.has_mesh, axis_name)
    for errors in _vertex_errors(prediction, targets)
  )
  direct, mesh = joint_term(prediction.joints), joint_term(regressed)
  projection = projection_term(prediction.joints) + projection_term(regressed)
  total = (
    RELEASED_JOINTS * (direct + mesh)
    + RELEASED_VERTICES * vertices
    + RELEASED_PROJECTION * projection
  )
  return Losses(total, vertices, direct, mesh, projection)


def from_hips(points: Float[Array, "b j 3"]) -> Float[Array, "b j 3"]:
  """J14 joints with the middle of the two hips at the origin."""
  return points - points[:, HIPS].mean(axis=1, keepdims=True)


def _regress(regressor: Array, vertices: Array) -> Array:
  with jax.default_matmul_precision("highest"):
    return body_model.regress_joints(regressor, vertices)


def _joint_errors(predicted: Array, target: Array, penalty: Any) -> Array:
  """Penalty a coordinate, from the mid-hip on both sides, times confidence."""
  difference = from_hips(predicted) - from_hips(target[..., :3])
  return target[..., 3:] * penalty(difference)


def _projection_errors(predicted: Array, target: Array, penalty: Any) -> Array:
  return target[..., 2:] * penalty(predicted - target[..., :2])


def _vertex_errors(prediction: Prediction, targets: Targets) -> list[Array]:
  """Absolute differences a coordinate, per level, coarse to fine."""
  pairs = zip(prediction.vertices, targets.vertices, strict=True)
  return [jnp.abs(predicted - target) for predicted, target in pairs]


def _labelled_mean(values: Array, labelled: Array, axis_name: str | None) -> Array:
  """Mean over the labelled examples of all devices, this device's share; 0 if none."""
  count = labelled.sum().astype(values.dtype)
  if axis_name is not None:
    count = jax.lax.pmean(count, axis_name)
  total = jnp.where(labelled, values, 0).sum()
  return total / jnp.where(count > 0, count, 1)

"""One evaluation step of one device: the network's output and its errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Real

from metro_jax.body import body_model
from metro_jax.data.batch import Batch
from metro_jax.evaluation import measure, metrics
from metro_jax.training.step import (
  AXIS,
  Geometry,
  at_least_float32,
  make_targets,
  normalize_images,
)

Array = Any  # of one device, or stacked over devices


class Predicted(NamedTuple):
  """What the network says of b pictures, float32 or better.

  Attributes:
    camera: (b, 3) s, tx, ty.
    vertices: (b, v, 3) the full mesh, metres.
    regressed_joints: (b, j, 3) the J14 of that mesh or the hand's 21, same frame.
    joints: (b, j, 3) the same joints as the network gives them directly.
  """

  camera: Array
  vertices: Array
  regressed_joints: Array
  joints: Array


class Evaluation(NamedTuple):
  """What a batch gave; b examples a device.

  Attributes:
    totals: {"sum": ..., "count": ...} per metric over all devices' valid, labelled
      examples; see `metrics.means`.
    errors: Per metric, (b,); NaN where it does not count. Names end in their unit, or
      in the threshold of a share.
    joint_errors_mm: MPJPE and PA-MPJPE by joint, (b, j); see `measure.Measured`.
    camera, vertices, regressed_joints, joints: As `Predicted`.
  """

  totals: dict[str, dict[str, Array]]
  errors: dict[str, Array]
  joint_errors_mm: dict[str, Array]
  camera: Array
  vertices: Array
  regressed_joints: Array
  joints: Array


EvalStep = Callable[[dict[str, Any], Batch, Geometry], Evaluation]


def make_eval_step(model: nn.Module, true_joints: str = "labels") -> EvalStep:
  """The step of one device, to be mapped over `AXIS`.

  Joints are the J14, or the hand's 21, regressed from the predicted full mesh. MPJPE
  compares them from the mid-hip or wrist, MPVPE compares meshes from their own H36M
  pelvis or wrist, PA-MPJPE aligns; `protocols.METRICS` has the others.

  Args:
    model: The network.
    true_joints: `config.eval.true_joints`.

  Returns:
    step(variables, batch, geometry) -> Evaluation, with `variables` of
    `TrainState.variables`. Everything is float32 whatever the network's own type.

  Source: METRO section 4; released code, run_metro_bodymesh.py, `run_validate`. There
    PA-MPJPE counts examples without 3D labels; here every metric has its own count.
  """

  def step(variables: dict[str, Any], batch: Batch, geometry: Geometry) -> Evaluation:
    predicted = predict(model, variables, batch.image, batch.color_gain, geometry)
    return evaluation(predicted, batch, geometry, true_joints)

  return step


def predict(
  model: nn.Module,
  variables: dict[str, Any],
  images: Real[Array, "b h w 3"],
  color_gain: Float[Array, "b 3"],
  geometry: Geometry,
) -> Predicted:
  """The network's answer and the joints of its mesh."""
  pixels = normalize_images(images, color_gain)
  prediction = model.apply(variables, pixels, geometry.template, None, train=False)
  prediction = at_least_float32(prediction)
  vertices = prediction.vertices[-1]
  regressed = _regress(geometry.joint_regressor, vertices)
  return Predicted(prediction.camera, vertices, regressed, prediction.joints)


def evaluation(
  predicted: Predicted, batch: Batch, geometry: Geometry, true_joints: str = "labels"
) -> Evaluation:
  """Compares predictions with a batch's labels; inside a map over `AXIS`."""
  targets = make_targets(batch, geometry)
  if true_joints == "mesh":
    of_mesh = _regress(geometry.joint_regressor, targets.vertices[-1])
    certain = jnp.pad(of_mesh, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    targets = targets.replace(joints_3d=certain, has_joints_3d=targets.has_mesh)
  root = _regress(geometry.root_regressor, predicted.vertices)
  kind = "wrist" if geometry.body.is_hand else "hips"
  joints = predicted.regressed_joints
  found = measure.measure(predicted.vertices - root, joints, targets, kind)
  counted = found.counted
  totals = jax.lax.psum(metrics.count_and_sum(found.errors, counted), AXIS)
  return Evaluation(
    totals=totals,
    errors={k: jnp.where(counted[k], v, jnp.nan) for k, v in found.errors.items()},
    joint_errors_mm=found.joint_errors_mm,
    **predicted._asdict(),
  )


def _regress(regressor: Array, vertices: Array) -> Array:
  with jax.default_matmul_precision("highest"):
    return body_model.regress_joints(regressor, vertices)

"""One evaluation step of one device: the network's output and its errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from metro_jax.body import body_model, joints
from metro_jax.data.schema import Batch
from metro_jax.evaluation import metrics
from metro_jax.training import losses
from metro_jax.training.step import (
  AXIS,
  Geometry,
  at_least_float32,
  make_targets,
  normalize_images,
)

Array = Any  # of one device, or stacked over devices


class Evaluation(NamedTuple):
  """What a batch gave; b examples a device.

  Attributes:
    totals: {"sum": ..., "count": ...} per metric over all devices' valid, labelled
      examples; see `metrics.means`.
    errors: Per metric, millimetres an example (b,); NaN where it does not count.
    camera: (b, 3) s, tx, ty.
    vertices: (b, v, 3) the full mesh as predicted, metres.
    regressed_joints: (b, 14, 3) the J14 of that mesh, same frame.
    joints: (b, 14, 3) the J14 that the network gives directly.
  """

  totals: dict[str, dict[str, Array]]
  errors: dict[str, Array]
  camera: Array
  vertices: Array
  regressed_joints: Array
  joints: Array


EvalStep = Callable[[dict[str, Any], Batch, Geometry], Evaluation]


def make_eval_step(model: nn.Module) -> EvalStep:
  """The step of one device, to be mapped over `AXIS`.

  Joints are the J14 regressed from the predicted full mesh. MPJPE compares them from
  the mid-hip, MPVPE compares meshes from their own H36M pelvis, PA-MPJPE aligns.

  Args:
    model: The network.

  Returns:
    step(variables, batch, geometry) -> Evaluation, with `variables` of
    `TrainState.variables`. Everything is float32 whatever the network's own type.

  Source: METRO section 4; released code, run_metro_bodymesh.py, `run_validate`. There
    PA-MPJPE counts examples without 3D labels; here every metric has its own count.
  """

  def step(variables: dict[str, Any], batch: Batch, geometry: Geometry) -> Evaluation:
    images = normalize_images(batch.image, batch.color_gain)
    prediction = model.apply(variables, images, geometry.template, None, train=False)
    prediction = at_least_float32(prediction)
    vertices = prediction.vertices[-1]
    targets = make_targets(batch, geometry)
    joint_set = h36m_joints(vertices, geometry)
    regressed = joint_set[:, joints.J14_FROM_H36M]
    centred = vertices - joint_set[:, joints.PELVIS][:, None]
    errors = body_errors(centred, regressed, targets)
    counted = {
      "mpvpe_mm": targets.has_mesh,
      "mpjpe_mm": targets.has_joints_3d,
      "pa_mpjpe_mm": targets.has_joints_3d,
    }
    totals = jax.lax.psum(metrics.count_and_sum(errors, counted), AXIS)
    return Evaluation(
      totals=totals,
      errors={k: jax.numpy.where(counted[k], errors[k], jax.numpy.nan) for k in errors},
      camera=prediction.camera,
      vertices=vertices,
      regressed_joints=regressed,
      joints=prediction.joints,
    )

  return step


def h36m_joints(vertices: Array, geometry: Geometry) -> Array:
  """The 17 joints of full meshes (b, v, 3)."""
  with jax.default_matmul_precision("highest"):
    return body_model.regress_joints(geometry.body.regressors["h36m"], vertices)


def body_errors(
  vertices: Array, joints_14: Array, targets: losses.Targets
) -> dict[str, Array]:
  """The three errors of full meshes from their pelvis and of J14 in any origin."""
  true_joints = targets.joints_3d[..., :3]
  return {
    "mpvpe_mm": metrics.mpvpe_mm(vertices, targets.vertices[-1]),
    "mpjpe_mm": metrics.mpjpe_mm(
      metrics.from_hips(joints_14), metrics.from_hips(true_joints)
    ),
    "pa_mpjpe_mm": metrics.pa_mpjpe_mm(joints_14, true_joints),
  }

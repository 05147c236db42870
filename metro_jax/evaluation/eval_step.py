"""One evaluation step of one device: the network's output and its errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from metro_jax.body import body_model
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
    regressed_joints: (b, j, 3) the J14 of that mesh or the hand's 21, same frame.
    joints: (b, j, 3) the same joints as the network gives them directly.
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

  Joints are the J14, or the hand's 21, regressed from the predicted full mesh. MPJPE
  compares them from the mid-hip or wrist, MPVPE compares meshes from their own H36M
  pelvis or wrist, PA-MPJPE aligns.

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
    with jax.default_matmul_precision("highest"):
      regressed = body_model.regress_joints(geometry.joint_regressor, vertices)
      root = body_model.regress_joints(geometry.root_regressor, vertices)
    kind = "wrist" if geometry.body.is_hand else "hips"
    errors = mesh_errors(vertices - root, regressed, targets, kind)
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


def mesh_errors(
  vertices: Array, regressed: Array, targets: losses.Targets, root: str = "hips"
) -> dict[str, Array]:
  """The three errors of full meshes from their root and of joints in any origin."""
  true_joints = targets.joints_3d[..., :3]
  return {
    "mpvpe_mm": metrics.mpvpe_mm(vertices, targets.vertices[-1]),
    "mpjpe_mm": metrics.mpjpe_mm(
      losses.from_root(regressed, root), losses.from_root(true_joints, root)
    ),
    "pa_mpjpe_mm": metrics.pa_mpjpe_mm(regressed, true_joints),
  }

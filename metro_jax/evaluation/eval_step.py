"""One evaluation step of one device: the network's output and its errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metro_jax.body import body_model
from metro_jax.data.batch import Batch
from metro_jax.evaluation import measure, metrics
from metro_jax.models.forward import Predicted, predict
from metro_jax.models.metro import AXIS
from metro_jax.models.setup import Geometry
from metro_jax.models.targets import make_targets

Array = Any  # of one device, or stacked over devices


class Evaluation(NamedTuple):
  """What a batch gave; b examples a device.

  Attributes:
    totals: {"sum": ..., "count": ...} per metric over all devices' valid, labelled
      examples; see `metrics.means`.
    errors: Per metric, (b,); NaN where it does not count. Names end in their unit, or
      in the threshold of a share.
    joint_errors_mm: MPJPE and PA-MPJPE by joint, (b, j); see `measure.Measured`.
    predicted: What the network said.
  """

  totals: dict[str, dict[str, Array]]
  errors: dict[str, Array]
  joint_errors_mm: dict[str, Array]
  predicted: Predicted


EvalStep = Callable[[dict[str, Any], Batch, Geometry], Evaluation]


def make_eval_step(model: nn.Module, true_joints: str = "labels") -> EvalStep:
  """Makes the step of one device, to be mapped over `AXIS`.

  Joints are the J14, or the hand's 21, regressed from the predicted full mesh. MPJPE
  compares them from the mid-hip or wrist, MPVPE compares meshes from their own H36M
  pelvis or wrist, PA-MPJPE aligns; `protocols.METRICS` has the others.

  Args:
    model: The network.
    true_joints: `config.eval.true_joints`.

  Returns:
    step(variables, batch, geometry) -> Evaluation, with `variables` of
    `TrainState.variables`. Everything is float32 whatever the network's own type.

  Source: METRO section 4; original code, run_metro_bodymesh.py, `run_validate`. There
    PA-MPJPE counts examples without 3D labels; here every metric has its own count.
  """

  def step(variables: dict[str, Any], batch: Batch, geometry: Geometry) -> Evaluation:
    predicted = predict(model, variables, batch.image, geometry, batch.color_gain)
    return evaluation(predicted, batch, geometry, true_joints)

  return step


def evaluation(
  predicted: Predicted, batch: Batch, geometry: Geometry, true_joints: str = "labels"
) -> Evaluation:
  """Compares predictions with a batch's labels; inside a map over `AXIS`."""
  targets = make_targets(batch, geometry, joints_of_mesh=true_joints == "mesh")
  if true_joints == "mesh":
    targets = targets.replace(has_joints_3d=targets.has_mesh)
  body = geometry.body
  root = body_model.regress_joints(body.root_regressor, predicted.vertices)
  kind = "wrist" if body.is_hand else "hips"
  found = measure.measure(predicted.vertices - root, predicted.joints, targets, kind)
  counted = found.counted
  totals = jax.lax.psum(metrics.count_and_sum(found.errors, counted), AXIS)
  return Evaluation(
    totals=totals,
    errors={k: jnp.where(counted[k], v, jnp.nan) for k, v in found.errors.items()},
    joint_errors_mm=found.joint_errors_mm,
    predicted=predicted,
  )

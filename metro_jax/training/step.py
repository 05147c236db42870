"""One training step of one device, as a pure function.

`parallel.map_step` runs it on every device; inside, the devices see each other
through the axis `AXIS`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Real
from ml_collections import ConfigDict

from metro_jax.body import body_model, joints
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.data.schema import Batch
from metro_jax.models import masking
from metro_jax.models.metro import AXIS, Prediction
from metro_jax.training import losses
from metro_jax.training.optimizer import trained
from metro_jax.training.state import TrainState

Array = Any  # np.ndarray or jax.Array
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Geometry(NamedTuple):
  """The body's constant arrays, handed to every step as an argument.

  Attributes:
    body: The articulated mesh.
    template: The network's queries.
    level_rows: Per mesh level, coarse to fine, which vertices of the full mesh it
      keeps.
    joint_regressor: The J14 from the full mesh.
  """

  body: BodyModel
  template: Template
  level_rows: tuple[Any, ...]
  joint_regressor: Any


TrainStep = Callable[[TrainState, Batch, Geometry], tuple[TrainState, dict[str, Array]]]


def make_geometry(body: BodyModel, levels: MeshLevels, template: Template) -> Geometry:
  """Gathers what the steps need of a body; NumPy in, NumPy out."""
  rows = [np.arange(len(body.template), dtype=np.int32)]
  for kept in levels.select:
    rows.append(rows[-1][kept])
  return Geometry(
    body=body,
    template=template,
    level_rows=tuple(reversed(rows)),
    joint_regressor=body.regressors["h36m"][joints.J14_FROM_H36M],
  )


def make_train_step(
  model: nn.Module, optimizer: optax.GradientTransformation, config: ConfigDict
) -> TrainStep:
  """The step of one device: forward, loss, gradient, update.

  Its randomness follows from the run's key, the step's number and the device's place
  on the axis, so that a resumed run goes on as if it had not stopped.

  Args:
    model: The network.
    optimizer: What turns the mean gradient into an update.
    config: The whole config.

  Returns:
    step(state, batch, geometry) -> (state, metrics), to be mapped over `AXIS`. The
    metrics are "loss", its unweighted terms and "gradient_norm", of the whole batch.
  """

  def step(
    state: TrainState, batch: Batch, geometry: Geometry
  ) -> tuple[TrainState, dict[str, Array]]:
    def loss(params: Any) -> tuple[Array, tuple[losses.Losses, Any]]:
      params = {**state.params, **params}
      variables = {"params": params, "batch_stats": state.batch_stats}
      prediction, stats = _forward(
        model, variables, batch, geometry, step_key(state), config.model.mask_fraction
      )
      terms = losses.compute(
        prediction,
        make_targets(batch, geometry),
        geometry.joint_regressor,
        config.loss,
        AXIS,
      )
      return terms.total, (terms, stats)

    params = trained(state.params, tuple(config.optimizer.frozen))
    gradient, (terms, stats) = jax.grad(loss, has_aux=True)(params)
    gradient, terms, stats = jax.lax.pmean((gradient, terms, stats), AXIS)
    updates, opt_state = optimizer.update(gradient, state.opt_state, params)
    state = state.replace(
      params={**state.params, **optax.apply_updates(params, updates)},
      batch_stats=stats,
      opt_state=opt_state,
      step=state.step + 1,
    )
    return state, _metrics(terms, gradient)

  return step


def step_key(state: TrainState) -> Array:
  """The PRNG key of this step on this device."""
  key = jax.random.wrap_key_data(state.key)
  key = jax.random.fold_in(key, state.step)
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def _forward(
  model: nn.Module,
  variables: dict[str, Any],
  batch: Batch,
  geometry: Geometry,
  key: Array,
  mask_fraction: float,
) -> tuple[Prediction, Any]:
  """The network in training: masked tokens, dropout, new BatchNorm statistics."""
  mask_key, dropout_key = jax.random.split(key)
  mask = None
  if mask_fraction > 0:
    mask = masking.sample_mask(
      mask_key,
      len(batch.image),
      len(geometry.template.joints),
      len(geometry.template.vertices),
      mask_fraction,
    )
  prediction, updates = model.apply(
    variables,
    normalize_images(batch.image, batch.color_gain),
    geometry.template,
    mask,
    train=True,
    rngs={"dropout": dropout_key},
    mutable=["batch_stats"],
  )
  return at_least_float32(prediction), updates.get("batch_stats", {})


def _metrics(terms: losses.Losses, gradient: Any) -> dict[str, Array]:
  return {
    "loss": terms.total,
    "vertices": terms.vertices,
    "joints": terms.joints,
    "regressed_joints": terms.regressed_joints,
    "projection": terms.projection,
    "gradient_norm": optax.tree.norm(gradient),
  }


def normalize_images(
  image: Real[Array, "b h w 3"], color_gain: Float[Array, "b 3"]
) -> Float[Array, "b h w 3"]:
  """The network's input: channel gains, clipping, ImageNet's mean and deviation.

  x = (clip(gain · pixel, 0, 255) / 255 - mean) / std
  """
  pixels = image.astype(color_gain.dtype) * color_gain[:, None, None, :]
  pixels = jnp.clip(pixels, 0, 255) / 255
  mean = jnp.asarray(IMAGENET_MEAN, pixels.dtype)
  return (pixels - mean) / jnp.asarray(IMAGENET_STD, pixels.dtype)


def make_targets(batch: Batch, geometry: Geometry) -> losses.Targets:
  """Labels of a batch in the network's terms: posed meshes and the J14.

  Args:
    batch: One device's examples.
    geometry: The body's arrays.

  Returns:
    Meshes of every level with the H36M pelvis of the full mesh at the origin; an
    example that is not `valid` has no label and no 2D confidence.
  """
  with jax.default_matmul_precision("highest"):
    vertices = body_model.pose_body(geometry.body, batch.pose, batch.shape).vertices
    regressor = geometry.body.regressors["h36m"][joints.PELVIS : joints.PELVIS + 1]
    vertices -= body_model.regress_joints(regressor, vertices)
  joints_2d = batch.joints_2d[:, joints.J14_FROM_J24]
  return losses.Targets(
    vertices=tuple(vertices[:, rows] for rows in geometry.level_rows),
    joints_3d=batch.joints_3d_m[:, joints.J14_FROM_J24],
    joints_2d=joints_2d * batch.valid[:, None, None],
    has_mesh=batch.has_mesh & batch.valid,
    has_joints_3d=batch.has_joints_3d & batch.valid,
    has_joints_2d=batch.has_joints_2d & batch.valid,
  )


def at_least_float32(tree: Any) -> Any:
  """Losses and geometry are computed in float32 whatever the network's own type."""
  return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

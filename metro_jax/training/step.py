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

from metro_jax.body import body_model, hand, joints
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.data.batch import Batch
from metro_jax.models import masking
from metro_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from metro_jax.models.metro import AXIS, Prediction
from metro_jax.models.setup import Network
from metro_jax.training import losses
from metro_jax.training.optimizer import completed, trained
from metro_jax.training.state import TrainState

Array = Any  # np.ndarray or jax.Array


class Geometry(NamedTuple):
  """The body's constant arrays, handed to every step as an argument.

  Attributes:
    body: The articulated mesh.
    template: The network's queries.
    level_rows: Per mesh level, coarse to fine, which vertices of the full mesh it
      keeps.
    joint_regressor: The network's joints, 14 or a hand's 21, from the full mesh.
    root_regressor: What a predicted mesh is centred on: its H36M pelvis or wrist.
    gendered: The male and the female body where truth is theirs, otherwise none.
  """

  body: BodyModel
  template: Template
  level_rows: tuple[Any, ...]
  joint_regressor: Any
  root_regressor: Any
  gendered: tuple[BodyModel, ...] = ()


TrainStep = Callable[[TrainState, Batch, Geometry], tuple[TrainState, dict[str, Array]]]


def make_geometry(
  body: BodyModel,
  levels: MeshLevels,
  template: Template,
  gendered: tuple[BodyModel, ...] = (),
) -> Geometry:
  """Gathers what the steps need of a body; NumPy in, NumPy out."""
  rows = [np.arange(len(body.template), dtype=np.int32)]
  for kept in levels.select:
    rows.append(rows[-1][kept])
  return Geometry(
    body=body,
    template=template,
    level_rows=tuple(reversed(rows)),
    joint_regressor=body.mesh_regressor,
    root_regressor=body.root_regressor,
    gendered=gendered,
  )


def geometry_of(network: Network) -> Geometry:
  """The constant arrays of a network's body; NumPy's."""
  return make_geometry(network.body, network.levels, network.template, network.gendered)


def make_train_step(
  model: nn.Module, optimizer: optax.GradientTransformation, config: ConfigDict
) -> TrainStep:
  """The step of one device: forward, loss, gradient, update.

  Its randomness follows from the run's key, the step's number and the device's place
  on the axis, so that a resumed run goes on as if it had not stopped.

  With `optimizer.accumulate` above 1 a device takes its examples in so many parts, one
  after another. Loss and gradient are those of the whole batch, except that BatchNorm
  sees one part of every device at a time.

  Args:
    model: The network.
    optimizer: What turns the mean gradient into an update.
    config: The whole config.

  Returns:
    step(state, batch, geometry) -> (state, metrics), to be mapped over `AXIS`. The
    metrics are "loss", its unweighted terms and "gradient_norm", of the whole batch;
    of a mixture also "datasets", see `by_dataset`.
  """
  frozen, parts = tuple(config.optimizer.frozen), config.optimizer.accumulate

  def step(
    state: TrainState, batch: Batch, geometry: Geometry
  ) -> tuple[TrainState, dict[str, Any]]:
    params, counts = trained(state.params, frozen), _count(batch, parts)

    def part_gradient(stats: Any, part: Batch, key: Array) -> tuple[Any, Any]:
      def loss(params: Any) -> tuple[Array, Any]:
        variables = {"params": completed(state.params, params), "batch_stats": stats}
        return _loss(model, variables, part, geometry, key, counts, config)

      return jax.grad(loss, has_aux=True)(params)

    key = step_key(state)
    if parts == 1:
      gradient, (terms, stats, groups) = part_gradient(state.batch_stats, batch, key)
    else:
      gradient, (terms, stats, groups) = _in_parts(
        part_gradient, state.batch_stats, batch, key, parts
      )
    gradient, terms, stats = jax.lax.pmean((gradient, terms, stats), AXIS)
    updates, opt_state = optimizer.update(gradient, state.opt_state, params)
    state = state.replace(
      params=completed(state.params, optax.apply_updates(params, updates)),
      batch_stats=stats,
      opt_state=opt_state,
      step=state.step + 1,
    )
    state = state.replace(ema=_averaged(state, config.optimizer.ema_decay))
    return state, _metrics(terms, gradient) | jax.lax.psum(groups, AXIS)

  return step


def _loss(
  model: nn.Module,
  variables: dict[str, Any],
  batch: Batch,
  geometry: Geometry,
  key: Array,
  counts: losses.Counts,
  config: ConfigDict,
) -> tuple[Array, Any]:
  """The total, and with it the terms, BatchNorm's statistics and sums by dataset."""
  prediction, stats = _forward(model, variables, batch, geometry, key, config.model)
  # `gendered` is the truth of evaluation alone.
  truth = geometry._replace(gendered=())
  released = config.loss.recipe == "released"
  targets = make_targets(batch, truth, released, config.loss.true_joints)
  regressor = geometry.joint_regressor
  terms = losses.compute(prediction, targets, regressor, config.loss, AXIS, counts)
  groups = {}
  if len(config.data.train) > 1:
    groups["datasets"] = by_dataset(prediction, targets, batch, regressor, config)
  return terms.total, (terms, stats, jax.lax.stop_gradient(groups))


def _count(batch: Batch, parts: int) -> losses.Counts:
  """The labelled examples of a part of a device's batch, on average."""
  flags = (batch.has_mesh, batch.has_joints_3d, batch.has_joints_2d)
  counts = losses.count(*(flag & batch.valid for flag in flags), AXIS)
  return losses.Counts(*(number / parts for number in counts))


def _in_parts(
  part_gradient: Callable[..., Any], stats: Any, batch: Batch, key: Array, parts: int
) -> tuple[Any, Any]:
  """The mean gradient and terms over the parts; statistics go from part to part."""
  leaves, structure = jax.tree.flatten(batch)
  size = len(leaves[0])
  if size % parts:
    raise ValueError(
      f"config.optimizer.accumulate: expected a divisor of the {size} examples of a "
      f"device, got {parts}"
    )
  leaves = [x.reshape(parts, size // parts, *x.shape[1:]) for x in leaves]

  def one(stats: Any, part: Any) -> tuple[Any, Any]:
    number, leaves = part
    examples = jax.tree.unflatten(structure, leaves)
    part_key = jax.random.fold_in(key, number)
    gradient, (terms, stats, groups) = part_gradient(stats, examples, part_key)
    return stats, (gradient, terms, groups)

  stats, stacked = jax.lax.scan(one, stats, (jnp.arange(parts), leaves))
  gradient, terms = jax.tree.map(lambda x: x.mean(0), stacked[:2])
  return gradient, (terms, stats, jax.tree.map(lambda x: x.sum(0), stacked[2]))


def _averaged(state: TrainState, decay: float) -> Any:
  """The averaged parameters after an update; {} without a decay.

  ē ← d ē + (1 - d) p, with d = min(decay, (1 + t) / (10 + t)) after t updates, so
  that the first weights are soon forgotten.
  """
  if not decay:
    return state.ema
  t = state.step.astype(jnp.float32)
  rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
  return jax.tree.map(lambda e, p: e + rate * (p - e), state.ema, state.params)


def by_dataset(
  prediction: Prediction,
  targets: losses.Targets,
  batch: Batch,
  joint_regressor: Array,
  config: ConfigDict,
) -> dict[str, Float[Array, " d"]]:
  """Sums over a device's examples of each of the d datasets of a mixture.

  Returns:
    "loss" of single examples and how many there are, "examples"; "mpjpe_mm" of the
    regressed joints from the root, over the labelled ones as in evaluation, and how
    many examples label the root, "labelled".
  """

  leaves, structure = jax.tree.flatten((prediction, targets))
  certain = losses.Counts(*[jnp.ones(())] * 3)

  def of_one(leaves: list[Array]) -> Array:
    one = jax.tree.unflatten(structure, [x[None] for x in leaves])
    return losses.compute(*one, joint_regressor, config.loss, None, certain).total

  loss = jax.vmap(of_one)(leaves)
  regressed = losses.regress(joint_regressor, prediction.vertices[-1])
  root, labels = config.loss.root, losses.present(targets).joints_3d
  known = labels[..., 3] > 0
  gaps_m = jnp.linalg.norm(losses.joint_gaps(regressed, labels, root), axis=-1)
  number = jnp.maximum(known.sum(-1), 1)
  error = 1000 * jnp.where(known, gaps_m, 0).sum(-1) / number
  belongs = batch.dataset[:, None] == jnp.arange(len(config.data.train))
  belongs &= batch.valid[:, None]
  labelled = belongs & known[:, losses.ROOTS[root]].all(-1, keepdims=True)
  return {
    "loss": jnp.where(belongs, loss[:, None], 0).sum(0),
    "examples": belongs.sum(0).astype(loss.dtype),
    "mpjpe_mm": jnp.where(labelled, error[:, None], 0).sum(0),
    "labelled": labelled.sum(0).astype(loss.dtype),
  }


def step_key(state: TrainState) -> Array:
  """The PRNG key of this step on this device."""
  key = jax.random.wrap_key_data(state.key)
  key = jax.random.fold_in(key, state.step)
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def as_dropout_key(key: Array, prng: str) -> Array:
  """A key for dropout's random bits, of the generator that is to make them.

  Args:
    key: A typed key.
    prng: JAX's name of the generator. "threefry2x32" gives the same bits on every
      kind of device. "rbg" and "unsafe_rbg" take the device's own generator: one
      instruction instead of hundreds, of which a TPU's compiler makes long code.
  """
  like = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=prng)))
  bits = jax.random.bits(key, like.shape, like.dtype)
  return jax.random.wrap_key_data(bits, impl=prng)


def _forward(
  model: nn.Module,
  variables: dict[str, Any],
  batch: Batch,
  geometry: Geometry,
  key: Array,
  options: ConfigDict,
) -> tuple[Prediction, Any]:
  """The network in training: masked tokens, dropout, new BatchNorm statistics."""
  mask_key, dropout_key = jax.random.split(key)
  mask = None
  if options.mask_fraction > 0:
    mask = masking.sample_mask(
      mask_key,
      len(batch.image),
      len(geometry.template.joints),
      len(geometry.template.vertices),
      options.mask_fraction,
    )
  if jnp.issubdtype(batch.image.dtype, jnp.floating):  # a frozen backbone's maps
    inputs = batch.image.astype(batch.color_gain.dtype)
  else:
    inputs = normalize_images(batch.image, batch.color_gain)
  prediction, updates = model.apply(
    variables,
    inputs,
    geometry.template,
    mask,
    train=True,
    rngs={"dropout": as_dropout_key(dropout_key, options.dropout_prng)},
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


def make_targets(
  batch: Batch,
  geometry: Geometry,
  released: bool = False,
  true_joints: str = "labels",
) -> losses.Targets:
  """Labels of a batch in the network's terms: posed meshes, and its joints.

  Args:
    batch: One device's examples.
    geometry: The body's arrays.
    released: Whether a hand's 3D joints are those of its mesh where there is one, as
      in the released code (run_metro_handmesh.py).
    true_joints: `config.loss.true_joints`; "mesh" does that for a body, too.

  Returns:
    Meshes of every level with the H36M pelvis of the full mesh, or the hand's wrist,
    at the origin; an example that is not `valid` has no label and no 2D confidence.
  """
  with jax.default_matmul_precision("highest"):
    posed = _posed(batch, geometry)
    vertices, joints_3d, joints_2d = posed.vertices, batch.joints_3d_m, batch.joints_2d
    if geometry.body.is_hand:
      of_mesh = hand.joints21(posed)
      root = of_mesh[:, joints.WRIST : joints.WRIST + 1]
    else:
      of_mesh = body_model.regress_joints(geometry.joint_regressor, vertices)
      root = body_model.regress_joints(geometry.root_regressor, vertices)
      joints_3d = joints_3d[:, joints.J14_FROM_J24]
      joints_2d = joints_2d[:, joints.J14_FROM_J24]
    if true_joints == "mesh" or (released and geometry.body.is_hand):
      certain = jnp.pad(of_mesh, ((0, 0), (0, 0), (0, 1)), constant_values=1)
      joints_3d = jnp.where(batch.has_mesh[:, None, None], certain, joints_3d)
    vertices = vertices - root
  return losses.Targets(
    vertices=tuple(vertices[:, rows] for rows in geometry.level_rows),
    joints_3d=joints_3d,
    joints_2d=joints_2d * batch.valid[:, None, None],
    has_mesh=batch.has_mesh & batch.valid,
    has_joints_3d=batch.has_joints_3d & batch.valid,
    has_joints_2d=batch.has_joints_2d & batch.valid,
  )


def _posed(batch: Batch, geometry: Geometry) -> body_model.PosedBody:
  """The labelled meshes, each of its own gender where the geometry has them."""
  posed = body_model.pose_body(geometry.body, batch.pose, batch.shape)
  for gender, body in enumerate(geometry.gendered, 1):
    other = body_model.pose_body(body, batch.pose, batch.shape)
    chosen = (batch.gender == gender)[:, None, None]
    posed = jax.tree.map(lambda a, b: jnp.where(chosen, b, a), posed, other)  # noqa: B023
  return posed


def at_least_float32(tree: Any) -> Any:
  """Losses and geometry are computed in float32 whatever the network's own type."""
  return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

"""One training step of one device, as a pure function.

`parallel.map_step` runs it on every device; inside, the devices see each other
through the axis `AXIS`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float
from ml_collections import ConfigDict

from metro_jax.body import body_model
from metro_jax.data.batch import Batch
from metro_jax.models import masking
from metro_jax.models.forward import at_least_float32, normalize_images
from metro_jax.models.metro import AXIS, Prediction
from metro_jax.models.setup import Geometry
from metro_jax.models.targets import ROOTS, Targets, make_targets
from metro_jax.training import losses
from metro_jax.training.optimizer import completed, trained
from metro_jax.training.state import TrainState

Array = Any  # np.ndarray or jax.Array


TrainStep = Callable[[TrainState, Batch, Geometry], tuple[TrainState, dict[str, Array]]]


def make_train_step(
  model: nn.Module, optimizer: optax.GradientTransformation, config: ConfigDict
) -> TrainStep:
  """Makes the step of one device: forward, loss, gradient, update.

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
    params, counts = trained(state.params, frozen), _count(batch, parts, config)

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
  counts: losses.Terms,
  config: ConfigDict,
) -> tuple[Array, Any]:
  """The total, and with it the terms, BatchNorm's statistics and sums by dataset."""
  prediction, stats = _forward(model, variables, batch, geometry, key, config.model)
  regressor, recipe = geometry.body.mesh_regressor, losses.make_recipe(config.loss)
  of_mesh = config.loss.true_joints == "mesh"
  # The original hand's joints are those of its mesh (run_metro_handmesh.py).
  of_mesh |= geometry.body.is_hand and config.loss.recipe == "released"
  # `gendered` is the truth of evaluation alone.
  targets = make_targets(batch, geometry._replace(gendered=()), of_mesh)
  terms = losses.per_example(prediction, targets, regressor, recipe)
  means, groups = losses.mean(terms, counts, recipe), {}
  if len(config.data.train) > 1:
    joints = body_model.regress_joints(regressor, prediction.vertices[-1])
    groups["datasets"] = by_dataset(
      losses.total(terms, recipe), joints, targets, batch, config
    )
  return means.total, (means, stats, jax.lax.stop_gradient(groups))


def _count(batch: Batch, parts: int, config: ConfigDict) -> losses.Terms:
  """The labelled examples of a part of a device's batch, on average."""
  flags = (batch.has_mesh, batch.has_joints_3d, batch.has_joints_2d)
  recipe = losses.make_recipe(config.loss)
  labelled = losses.labelled_by_term(recipe, *(flag & batch.valid for flag in flags))
  return losses.Terms(*(number / parts for number in losses.count(labelled, AXIS)))


def _in_parts(
  part_gradient: Callable[..., Any], stats: Any, batch: Batch, key: Array, parts: int
) -> tuple[Any, Any]:
  """The mean gradient and terms over the parts; statistics go from part to part."""
  size = len(batch.image)
  if size % parts:
    raise ValueError(
      f"config.optimizer.accumulate: expected a divisor of the {size} examples of a "
      f"device, got {parts}"
    )

  def one(stats: Any, part: tuple[Array, Batch]) -> tuple[Any, Any]:
    number, examples = part
    part_key = jax.random.fold_in(key, number)
    gradient, (terms, stats, groups) = part_gradient(stats, examples, part_key)
    return stats, (gradient, terms, groups)

  batches = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
  stats, stacked = jax.lax.scan(one, stats, (jnp.arange(parts), batches))
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
  loss: Float[Array, " b"],
  joints_m: Float[Array, "b j 3"],
  targets: Targets,
  batch: Batch,
  config: ConfigDict,
) -> dict[str, Float[Array, " d"]]:
  """Adds up a device's examples for each of the d datasets of a mixture.

  Args:
    loss: Of every example by itself.
    joints_m: Regressed from its mesh.
    targets: Its labels.
    batch: Says which dataset it is of.
    config: Uses `data.train` and `loss.root`.

  Returns:
    "loss" and how many examples there are, "examples"; "mpjpe_mm" of the joints from
    the root, over the labelled ones as in evaluation, and how many examples label the
    root, "labelled".
  """
  root, labels = config.loss.root, losses.present(targets).joints_3d
  known = labels[..., 3] > 0
  gaps_m = jnp.linalg.norm(losses.joint_gaps(joints_m, labels, root), axis=-1)
  number = jnp.maximum(known.sum(-1), 1)
  error = 1000 * jnp.where(known, gaps_m, 0).sum(-1) / number
  labelled = batch.valid & known[:, ROOTS[root]].all(-1)

  def sums(values: Array, counted: Array) -> Float[Array, " d"]:
    kept = jnp.where(counted, values, 0)
    return jax.ops.segment_sum(kept, batch.dataset, len(config.data.train))

  ones = jnp.ones_like(loss)
  return {
    "loss": sums(loss, batch.valid),
    "examples": sums(ones, batch.valid),
    "mpjpe_mm": sums(error, labelled),
    "labelled": sums(ones, labelled),
  }


def step_key(state: TrainState) -> Array:
  """Derives the PRNG key of this step on this device."""
  key = jax.random.wrap_key_data(state.key)
  key = jax.random.fold_in(key, state.step)
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def as_dropout_key(key: Array, prng: str) -> Array:
  """Makes a key for dropout's bits, of the generator that is to make them.

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
  values = terms._asdict()
  total = values.pop("total")
  return {"loss": total, **values, "gradient_norm": optax.tree.norm(gradient)}

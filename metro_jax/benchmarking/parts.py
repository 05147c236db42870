"""How long each part of a training step takes by itself, gradients included.

The parts run alone, one device's share each: what a compiler fuses across them, and
what devices do while they wait for each other, shows in the difference to the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from metro_jax.benchmarking import pictures, timing
from metro_jax.benchmarking.timing import Timing
from metro_jax.cluster import parallel
from metro_jax.models import forward, metro, targets
from metro_jax.models.encoder import EncoderBlock
from metro_jax.models.setup import Geometry, Network
from metro_jax.planning import products
from metro_jax.training import losses, state
from metro_jax.training import optimizer as optimizers
from metro_jax.training import step as steps

Tree = Any  # a pytree of arrays


class Part(NamedTuple):
  """A part of the step: a function of arrays, and the arrays."""

  name: str
  function: Callable[..., Tree]
  arguments: tuple[Tree, ...]


class _Given(nn.Module):
  """In the backbone's place: a feature map that costs nothing."""

  channels: int

  @nn.compact
  def __call__(self, images: Any, train: bool) -> Any:
    del train
    return jnp.broadcast_to(images[..., :1], (*images.shape[:-1], self.channels))


class _FirstThree(nn.Module):
  """In the encoder's place: coordinates that cost nothing."""

  @nn.compact
  def __call__(self, tokens: Any, train: bool) -> Any:
    del train
    return tokens[..., :3]


def of(config: ConfigDict, network: Network, start: state.TrainState) -> list[Part]:
  """The parts of one device's training step.

  Args:
    config: The whole config.
    network: Its network.
    start: The state to take parameters from.
  """
  size = config.train.batch_size // jax.local_device_count()
  model = metro.build(config, network.levels, axis_name=None)
  batch = pictures.batch(config, size)
  geometry = network.geometry
  dtype = jnp.dtype(config.model.compute_dtype)
  images = jax.eval_shape(forward.normalize_images, batch.image, batch.color_gain)
  variables = {name: dict(tree) for name, tree in start.variables.items()}
  moving = optimizers.trained(start.params, tuple(config.optimizer.frozen))
  backbone, features = _backbone(model, variables, images, moving.get("backbone", {}))
  tokens = sum(
    len(points) for points in (network.template.joints, network.template.vertices)
  )
  key = steps.as_dropout_key(jax.random.key(0), config.model.dropout_prng)
  widths = (3 + features.shape[-1], *config.model.output_widths)
  return [
    backbone,
    *(
      _block(
        config, variables, moving, n, _zeros((size, tokens, widths[n]), dtype), key
      )
      for n in range(len(config.model.hidden_widths))
    ),
    _heads(model, variables, moving, network, features),
    Part("body model", targets.make_targets, (batch, geometry)),
    _loss(config, batch, geometry, size),
    _update(config, start),
  ]


def _zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
  return jnp.full(shape, 0.01, dtype)


def _with_gradients(function: Callable[..., Tree], count: int) -> Callable[..., Tree]:
  """The function and its gradients by its first arguments, if any."""

  def run(*arguments: Tree) -> Tree:
    fixed = arguments[count:]
    results, pull = jax.vjp(lambda *moved: function(*moved, *fixed), *arguments[:count])
    return pull(jax.tree.map(jnp.ones_like, results)) if count else results

  return run


def _backbone(
  model: metro.METRO, variables: dict[str, Any], images: Any, moving: Tree
) -> tuple[Part, Any]:
  stats = variables["batch_stats"].get("backbone", {})

  def run(moving: Tree, images: Any, params: Tree) -> Any:
    taken = {"params": optimizers.completed(params, moving), "batch_stats": stats}
    return model.backbone.apply(taken, images, True, mutable=["batch_stats"])[0]

  params = variables["params"]["backbone"]
  features = jax.eval_shape(run, moving, images, params)
  given = _zeros(images.shape, images.dtype)
  run = _with_gradients(run, 1 if moving else 0)
  return Part("backbone", run, (moving, given, params)), features


def _block(
  config: ConfigDict,
  variables: dict[str, Any],
  moving: Tree,
  n: int,
  tokens: Any,
  dropout_key: Any,
) -> Part:
  block = EncoderBlock(metro.encoder_settings(config.model), n)

  def run(moving: Tree, tokens: Any, params: Tree) -> Any:
    rngs = {"dropout": dropout_key}
    taken = {"params": optimizers.completed(params, moving)}
    return block.apply(taken, tokens, True, rngs=rngs)

  name = f"block{n}"
  moving, params = (
    tree.get("encoder", {}).get(name, {}) for tree in (moving, variables["params"])
  )
  arguments = (moving, tokens, params)
  return Part(f"encoder block {n}", _with_gradients(run, 2), arguments)


def _heads(
  model: metro.METRO,
  variables: dict[str, Any],
  moving: Tree,
  network: Network,
  features: Any,
) -> Part:
  """Token mixing, camera and upsampling: METRO around what it does not look into."""
  heads = model.clone(backbone=_Given(features.shape[-1]), encoder=_FirstThree())
  others = ("backbone", "encoder")
  moving, params = (
    {name: module for name, module in tree.items() if name not in others}
    for tree in (moving, variables["params"])
  )

  def run(moving: Tree, images: Any, params: Tree) -> Any:
    taken = {"params": optimizers.completed(params, moving)}
    return heads.apply(taken, images, network.template, None, False)

  images = _zeros((*features.shape[:-1], 3), features.dtype)
  return Part("heads", _with_gradients(run, 2), (moving, images, params))


def _loss(config: ConfigDict, batch: Any, geometry: Geometry, size: int) -> Part:
  labels = jax.eval_shape(targets.make_targets, batch, geometry)
  labels = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), labels)
  prediction = metro.Prediction(
    camera=_zeros((size, 3), jnp.float32),
    query_joints=_zeros((size, len(geometry.template.joints), 3), jnp.float32),
    vertices=tuple(_zeros(x.shape, x.dtype) for x in labels.vertices),
  )

  def run(prediction: Any, labels: Any, regressor: Any) -> Any:
    def total(prediction: Any) -> Any:
      return losses.compute(prediction, labels, regressor, config.loss).total

    return jax.value_and_grad(total)(prediction)

  return Part("loss", run, (prediction, labels, geometry.body.mesh_regressor))


def _update(config: ConfigDict, start: state.TrainState) -> Part:
  optimizer = optimizers.make_optimizer(config)
  params = optimizers.trained(start.params, tuple(config.optimizer.frozen))

  def run(gradient: Tree, opt_state: Tree, params: Tree) -> Tree:
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  return Part("optimizer", run, (params, start.opt_state, params))


def measure(parts: list[Part], budget_s: float) -> dict[str, tuple[Timing, float]]:
  """Times every part; gives its seconds and its products' operations.

  Args:
    parts: See `of`.
    budget_s: For each.
  """
  found = {}
  device = jax.local_devices()[0]
  for part in parts:
    arguments = jax.device_put(part.arguments, device)
    compiled = jax.jit(part.function).lower(*arguments).compile()
    taken = timing.one(lambda c=compiled, a=arguments: c(*a), budget_s)
    flops = sum(p.flops for p in products.of(part.function, *arguments))
    found[part.name] = (taken, float(flops))
    del arguments
  return found


def all_reduce(network: Network, start: state.TrainState, budget_s: float) -> Timing:
  """Averaging one gradient over all devices of this process."""

  def mean(gradient: Tree, batch: Tree, geometry: Geometry) -> Tree:
    del batch, geometry
    return jax.lax.pmean(gradient, metro.AXIS)

  geometry = network.geometry
  mapped = parallel.map_step(mean, geometry, donate=False)
  gradient = parallel.replicate(start.params)
  return timing.one(lambda: mapped(gradient, ()), budget_s)

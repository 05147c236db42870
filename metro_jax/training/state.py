"""Everything that training changes, as one pytree of arrays."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from metro_jax.body.template import Template
from metro_jax.models.setup import make_variables

Tree = Any  # nested dicts of arrays, here or stacked over devices


class TrainState(flax.struct.PyTreeNode):
  """Parameters, BatchNorm statistics, optimizer state, step and randomness.

  Attributes:
    params: The network's parameters.
    batch_stats: Running means and variances; {} where the network has none.
    opt_state: The optimizer's.
    step: Updates made so far, int32.
    key: Raw data of the run's PRNG key, uint32; never changes, every step folds its
      number in.
    ema: Averaged parameters, where the config asks for them; otherwise {}.
  """

  params: Tree
  batch_stats: Tree
  opt_state: Tree
  step: Any
  key: Any
  ema: Tree = flax.struct.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, Tree]:
    """What to evaluate: params, averaged where there are such, and batch_stats."""
    return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


def create(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  template: Template,
  image_px: int,
  seed: int,
  averaged: bool = False,
) -> TrainState:
  """Draws a fresh state from the seed.

  Args:
    model: The network.
    optimizer: What will update it.
    template: The network's queries.
    image_px: Side of its square input.
    seed: The run's.
    averaged: Whether it keeps averaged parameters.

  Returns:
    Arrays on the default device.
  """

  def make(key: jax.Array) -> TrainState:
    return _make(model, optimizer, template, image_px, key, averaged)

  return jax.jit(make, compiler_options=_quick())(jax.random.key(seed))


def shapes(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  template: Template,
  image_px: int,
  averaged: bool = False,
) -> TrainState:
  """Gives what `create` makes as `jax.ShapeDtypeStruct`s; allocates nothing."""

  def make(key: jax.Array) -> TrainState:
    return _make(model, optimizer, template, image_px, key, averaged)

  return jax.eval_shape(make, jax.random.key(0))


def _make(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  template: Template,
  image_px: int,
  key: jax.Array,
  averaged: bool,
) -> TrainState:
  init_key, run_key = jax.random.split(key)
  variables = make_variables(model, template, image_px, init_key)
  return TrainState(
    **variables,
    opt_state=optimizer.init(variables["params"]),
    step=jnp.zeros((), jnp.int32),
    key=jax.random.key_data(run_key),
    ema=jax.tree.map(jnp.array, variables["params"]) if averaged else {},
  )


def _quick() -> dict[str, int | bool] | None:
  """Compiler options for what runs once: on CPUs, optimizing takes far longer."""
  if jax.default_backend() != "cpu":
    return None
  return {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  }


def with_weights(state: TrainState, variables: dict[str, Tree]) -> TrainState:
  """Starts a fresh run's state from given weights."""
  params = variables["params"]
  return state.replace(
    params=params,
    batch_stats=variables["batch_stats"],
    ema=jax.tree.map(jnp.array, params) if state.ema else {},
  )

"""The steps of a config, compiled for the devices here and ready to be run again."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from metro_jax.benchmarking import pictures
from metro_jax.cluster import parallel
from metro_jax.inference import forward_pass
from metro_jax.models.setup import Network
from metro_jax.planning import products, programs
from metro_jax.planning.programs import Step
from metro_jax.training import optimizer as optimizers
from metro_jax.training import state
from metro_jax.training.step import AXIS

Tree = Any  # a pytree of arrays


class Runner(NamedTuple):
  """Something to time.

  Attributes:
    run: One more time; returns what to wait for.
    examples: That one run works on.
    flops: Products of one run on one device.
    memory_bytes: Of one device, as the compiler plans it.
    compile_seconds: That compilation took.
  """

  run: Callable[[], Tree]
  examples: int
  flops: float
  memory_bytes: float
  compile_seconds: float


class Trainer:
  """A training state that goes on step by step, as `metro_jax.train` has it."""

  def __init__(self, step: Callable[[Tree, Tree], Tree], state: Tree, batch: Tree):
    self._step, self.state, self._batch = step, state, batch

  def __call__(self) -> Tree:
    """One step; returns its metrics."""
    self.state, metrics = self._step(self.state, self._batch)
    return metrics


def fresh_state(config: ConfigDict, network: Network) -> state.TrainState:
  """The state that a run starts with, on the host."""
  optimizer, px = optimizers.make_optimizer(config), config.data.image_px
  averaged = config.optimizer.ema_decay > 0
  made = state.create(
    network.model, optimizer, network.template, px, config.seed, averaged
  )
  return jax.tree.map(np.asarray, made)


def training(
  config: ConfigDict, network: Network, start: state.TrainState
) -> tuple[Runner, Trainer]:
  """The training step over all devices, and the state that it moves."""
  size = config.train.batch_size
  step = programs.train_step(config, network, size // jax.local_device_count())
  compiled, seconds = _compile(_lower(step))
  constants = parallel.replicate(step.geometry)
  batch = parallel.shard(pictures.batch(config, size))
  trainer = Trainer(
    lambda state, batch: compiled(state, batch, constants),
    parallel.replicate(start),
    batch,
  )
  return _runner(trainer, size, step, compiled, seconds), trainer


def plain_training(
  config: ConfigDict, network: Network, start: state.TrainState
) -> Trainer:
  """The same step of one device under a plain `jit`, for comparison.

  The axis of the devices is a `vmap` of size 1, whose sums are copies.
  """
  size = config.train.batch_size // jax.local_device_count()
  step = programs.train_step(config, network, size)

  def alone(state: Tree, batch: Tree, geometry: Tree) -> Tree:
    mapped = jax.vmap(
      lambda batch: step.function(state, batch, geometry),
      out_axes=None,
      axis_name=AXIS,
      axis_size=1,
    )
    return mapped(batch)

  device = jax.local_devices()[0]
  arguments = jax.device_put(
    (start, _stacked(pictures.batch(config, size)), step.geometry), device
  )
  compiled = jax.jit(alone, donate_argnums=0).lower(*arguments).compile()
  state_, batch, constants = arguments
  return Trainer(lambda s, b: compiled(s, b, constants), state_, batch)


def evaluating(config: ConfigDict, network: Network, start: state.TrainState) -> Runner:
  """The evaluation step over all devices."""
  size = config.eval.batch_size
  step = programs.eval_step(config, network, size // jax.local_device_count())
  compiled, seconds = _compile(_lower(step))
  constants = parallel.replicate(step.geometry)
  variables = parallel.replicate(start.variables)
  batch = parallel.shard(pictures.batch(config, size))
  run = lambda: compiled(variables, batch, constants)  # noqa: E731
  return _runner(run, size, step, compiled, seconds)


def predicting(
  config: ConfigDict, network: Network, start: state.TrainState, size: int
) -> Runner:
  """What `metro_jax.predict` runs, on one device."""
  forward = forward_pass.make_forward(network)
  images = pictures.batch(config, size).image
  arguments = jax.device_put((start.variables, images), jax.local_devices()[0])
  compiled, seconds = _compile(jax.jit(forward).lower(*arguments))
  flops = float(sum(p.flops for p in products.of(forward, *arguments)))
  memory = programs.memory_of(compiled).total
  return Runner(lambda: compiled(*arguments), size, flops, memory, seconds)


def _lower(step: Step) -> jax.stages.Lowered:
  return parallel.lower_step(
    step.function,
    step.geometry,
    step.state,
    step.batch,
    jax.local_devices(),
    donate=step.donate,
  )


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, float]:
  started = time.perf_counter()
  return lowered.compile(), time.perf_counter() - started


def _runner(
  run: Callable[[], Tree],
  size: int,
  step: Step,
  compiled: jax.stages.Compiled,
  seconds: float,
) -> Runner:
  arguments = (step.state, step.batch, step.geometry)
  found = products.of_step(step.function, AXIS, *arguments)
  flops = float(sum(product.flops for product in found))
  return Runner(run, size, flops, programs.memory_of(compiled).total, seconds)


def _stacked(batch: Tree) -> Tree:
  return jax.tree.map(lambda x: x[None], batch)

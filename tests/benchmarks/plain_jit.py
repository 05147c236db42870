"""One device's training step under a plain `jit`, to compare with the mapped one."""

import jax
from ml_collections import ConfigDict

from metro_jax.benchmarking import pictures
from metro_jax.benchmarking.runners import Trainer, Tree
from metro_jax.models.setup import Network
from metro_jax.planning import programs
from metro_jax.training.state import TrainState
from metro_jax.training.step import AXIS


def training(config: ConfigDict, network: Network, start: TrainState) -> Trainer:
  """Returns the training state that moves under it.

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

  batch = jax.tree.map(lambda x: x[None], pictures.batch(config, size))
  device = jax.local_devices()[0]
  state, batch, geometry = jax.device_put((start, batch, step.geometry), device)
  compiled = jax.jit(alone, donate_argnums=0).lower(state, batch, geometry).compile()
  return Trainer(lambda state, batch: compiled(state, batch, geometry), state, batch)

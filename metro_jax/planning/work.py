"""What a training takes of its devices, counted before its first step."""

import jax
import numpy as np
from ml_collections import ConfigDict

from metro_jax.data.batch import Batch
from metro_jax.models.setup import Network
from metro_jax.planning import chips, products, programs
from metro_jax.training.goodput import Work
from metro_jax.training.step import AXIS


def of_training(config: ConfigDict, network: Network, batch: Batch) -> Work:
  """Counts the products of a training step; computes nothing.

  Args:
    config: The whole config.
    network: Its network.
    batch: One of this process's.
  """
  count = jax.local_device_count()
  share = len(batch.valid) // count
  step = programs.train_step(config, network, share)

  def of_one_device(x: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((share, *x.shape[1:]), x.dtype)

  arguments = (step.state, jax.tree.map(of_one_device, batch), step.geometry)
  found = products.of_step(step.function, AXIS, *arguments)
  chip = chips.of(jax.local_devices()[0].device_kind)
  peak = chip.flops * jax.device_count() if chip else 0.0
  return Work(float(sum(product.flops for product in found)) / share, peak)

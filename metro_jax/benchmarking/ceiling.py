"""The fastest matrix products that a device does here and now."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metro_jax.benchmarking import timing

SIDES = (256, 512, 1024, 2048, 4096, 8192)
ENOUGH_S = 0.5  # a product that takes longer tells no more than a smaller one


class Ceiling(NamedTuple):
  """The operations a second of square products, and the side that did best."""

  flops: float
  side: int
  dtype: str


def measure(dtype: str, budget_s: float) -> Ceiling:
  """Multiplies ever larger square matrices on one device.

  Args:
    dtype: Of their numbers, the config's `model.compute_dtype`.
    budget_s: For each size.
  """
  device = jax.local_devices()[0]
  best = Ceiling(0.0, 0, dtype)
  product = jax.jit(jnp.matmul)
  for side in SIDES:
    x = jax.device_put(jnp.ones((side, side), dtype) / side, device)
    taken = timing.one(functools.partial(product, x, x), budget_s)
    speed = 2 * side**3 / taken.seconds
    if speed > best.flops:
      best = Ceiling(speed, side, dtype)
    if taken.seconds > ENOUGH_S / 8:
      break
  return best

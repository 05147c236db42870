"""How far an exported program is from the checkpoint that it came from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from metro_jax.checkpoints import runs
from metro_jax.inference import forward_pass

Program = Callable[[np.ndarray], Mapping[str, Any]]


def of_checkpoint(run: runs.Run) -> Program:
  """The run's own network as a function of crops."""
  forward = jax.jit(forward_pass.make_forward(run.network))
  variables = jax.device_put(run.variables)
  return lambda images: forward(variables, images)


def largest_difference(
  program: Program, wanted: Program, image_px: int, image_type: str
) -> float:
  """The largest over all outputs, metres, for batches of one and three."""
  worst = 0.0
  for size in (1, 3):
    shape = (size, image_px, image_px, 3)
    noise = np.random.default_rng(size).integers(0, 256, shape)
    pictures = noise.astype(image_type)
    made, right = program(pictures), wanted(pictures)
    gaps = [np.abs(made[k] - np.asarray(right[k])).max() for k in forward_pass.OUTPUTS]
    worst = max(worst, float(np.max(gaps)))
  return worst

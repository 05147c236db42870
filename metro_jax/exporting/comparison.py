"""How far an exported program is from the checkpoint that it came from."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from metro_jax.checkpoints import runs
from metro_jax.inference import forward_pass

COUNT = 3
Program = Callable[[np.ndarray], Mapping[str, Any]]


class Sample(NamedTuple):
  """Crops, and what the checkpoint's network makes of them."""

  images: np.ndarray
  outputs: dict[str, np.ndarray]


def sample(run: runs.Run, image_type: str) -> Sample:
  """Runs the network on pictures of noise.

  Args:
    run: The network.
    image_type: "uint8" or "float32".
  """
  px = run.config.data.image_px
  noise = np.random.default_rng(COUNT).integers(0, 256, (COUNT, px, px, 3))
  images = noise.astype(image_type)
  forward = jax.jit(forward_pass.make_forward(run.network))
  return Sample(images, jax.device_get(forward(run.variables, images)))


def largest_difference(program: Program, wanted: Sample) -> float:
  """The largest over all outputs, metres, for a batch of one and for all of it."""
  worst = 0.0
  for count in (1, COUNT):
    made = program(wanted.images[:count])
    gaps = [
      np.abs(np.asarray(made[name]) - output[:count]).max()
      for name, output in wanted.outputs.items()
    ]
    worst = max(worst, float(np.max(gaps)))
  return worst

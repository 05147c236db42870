"""A run's network as a StableHLO program for CPU, CUDA and TPU."""

import pathlib
import shutil
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from metro_jax import files
from metro_jax.checkpoints import runs
from metro_jax.exporting import card, comparison, run_exported
from metro_jax.exporting.card import Choice
from metro_jax.inference import forward_pass
from metro_jax.weights import weight_files

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # metres; far above float32 noise, far below anything visible
Flat = dict[str, np.ndarray]


def file_names(choice: Choice) -> list[str]:
  """What the folder will hold."""
  beside = ["parameters.npz"] if choice.parameters == "beside" else []
  return ["network.bin", *beside, "run.py", *card.FILES]


def flatten(variables: Any) -> Flat:
  """Parameters and statistics by path, such as "params/backbone/conv1/kernel"."""
  flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
  return {name: np.asarray(value) for name, value in flat.items()}


def write(run: runs.Run, folder: pathlib.Path, choice: Choice) -> float:
  """Writes the program and reads it back.

  Args:
    run: The network.
    folder: Where to.
    choice: Whether parameters are beside or inside, and the type of the pictures.

  Returns:
    The largest difference from the checkpoint, metres.
  """
  forward = forward_pass.make_forward(run.network)
  flat, beside = flatten(run.variables), choice.parameters == "beside"

  def program(*inputs: Any) -> dict[str, jax.Array]:
    given, images = inputs if beside else (flat, *inputs)
    return forward(flax.traverse_util.unflatten_dict(given, sep="/"), images)

  px = run.config.data.image_px
  (batch,) = jax.export.symbolic_shape("b")
  images = jax.ShapeDtypeStruct((batch, px, px, 3), np.dtype(choice.image_type))
  shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat.items()}
  inputs = (shapes, images) if beside else (images,)
  exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*inputs)
  with files.replacing(folder / "network.bin") as partial:
    partial.write_bytes(exported.serialize())
  if beside:
    weight_files.write(folder / "parameters.npz", flat)
  shutil.copyfile(run_exported.__file__, folder / "run.py")
  more = {"parameters": choice.parameters, "image_type": choice.image_type}
  card.write(run, folder, choice, more)
  wanted = comparison.sample(run, choice.image_type)
  return comparison.largest_difference(run_exported.load(folder), wanted)

"""The released weights of BlazePose's backbone, which come with the package."""

import os
import pathlib

import flax.traverse_util

from metro_jax.weights import torch_metro, weight_files
from metro_jax.weights.torch_metro import Variables
from metro_jax.weights.weight_files import Loaded

EMBEDDED = "embedded"  # the source that names them
ASSET = pathlib.Path(__file__).parent / "assets" / "blazepose.safetensors"


def load(source: str | os.PathLike[str], variables: Variables) -> Loaded:
  """The backbone's weights, all or nothing.

  Args:
    source: "embedded", or a file of the same names as for `weight_files.locate`.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Returns:
    "params" with "backbone" alone; NumPy arrays of the variables' types.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If the file is refused, or naming every key that does not fit.
  """
  arrays = weight_files.read(ASSET if source == EMBEDDED else source)
  like = flax.traverse_util.flatten_dict(variables["params"]["backbone"], sep=".")
  table = [
    torch_metro.Entry(key, (key,), tuple(leaf.shape), tuple(range(leaf.ndim)))
    for key, leaf in like.items()
  ]
  found = torch_metro.compare({k: v.shape for k, v in arrays.items()}, table, ())
  try:
    torch_metro.raise_unless_fitting(found)
  except ValueError as error:
    raise ValueError(f"{source}: {error}") from error
  filled = {key: arrays[key].astype(leaf.dtype) for key, leaf in like.items()}
  backbone = flax.traverse_util.unflatten_dict(filled, sep=".")
  return Loaded({"params": {"backbone": backbone}}, 0, str(source))

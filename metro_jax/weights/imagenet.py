"""ImageNet weights for the backbone, under torchvision's, timm's and HRNet's names.

These name the modules that METRO's state dict holds in its backbone: HRNet alike,
ResNet as conv1, bn1 and layer1 to layer4 instead of numbers in a Sequential.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from metro_jax.weights import torch_metro, weight_files
from metro_jax.weights.torch_metro import Entry, Fit, Shape, Variables
from metro_jax.weights.weight_files import Loaded

_STEM = {0: "conv1", 1: "bn1"}
_FIRST_STAGE = 4  # its number in METRO's Sequential
_CLASSIFIERS = ("fc", "classifier")


def entries(variables: Variables) -> tuple[Entry, ...]:
  """The backbone's arrays under their ImageNet names.

  Args:
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.
  """
  backbone = {
    name: {"backbone": variables[name]["backbone"]}
    for name in ("params", "batch_stats")
  }
  return tuple(
    entry._replace(key=_imagenet_key(entry.key))
    for entry in torch_metro.entries(backbone)
  )


def _imagenet_key(key: str) -> str:
  key = key.removeprefix("backbone.")
  numbered = re.fullmatch(r"(\d+)\.(.+)", key)
  if not numbered:
    return key
  number, rest = int(numbered[1]), numbered[2]
  return f"{_STEM.get(number) or f'layer{number - _FIRST_STAGE + 1}'}.{rest}"


def fit(shapes: Mapping[str, Shape], variables: Variables) -> Fit:
  """Compares a state dict's shapes with the backbone's.

  The classifier and BatchNorm's counters of batches count as ignored.

  Args:
    shapes: By key of the state dict.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.
  """
  table = entries(variables)
  unused = {f"{name}.{leaf}" for name in _CLASSIFIERS for leaf in ("weight", "bias")}
  unused |= {
    entry.key.removesuffix("running_mean") + "num_batches_tracked"
    for entry in table
    if entry.key.endswith("running_mean")
  }
  return torch_metro.compare(shapes, table, unused)


def from_state_dict(
  state_dict: Mapping[str, np.ndarray], variables: Variables
) -> dict[str, Any]:
  """Puts ImageNet weights into the shape of our backbone, all or nothing.

  Args:
    state_dict: NumPy arrays under torchvision's, timm's or HRNet's keys.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Returns:
    "params" and "batch_stats", each with "backbone" alone; NumPy arrays.

  Raises:
    ValueError: Naming every missing, unexpected and mis-shaped key.
  """
  found = fit({key: value.shape for key, value in state_dict.items()}, variables)
  torch_metro.raise_unless_fitting(found)
  return torch_metro.converted(state_dict, entries(variables), variables)


def load(source: str | os.PathLike[str], variables: Variables) -> Loaded:
  """The backbone's weights from a file or a Hugging Face repository.

  Args:
    source: As for `weight_files.locate`.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If the file is refused, or naming every key that does not fit.
  """
  arrays = weight_files.read(source)
  try:
    filled = from_state_dict(arrays, variables)
  except ValueError as error:
    raise ValueError(f"{source}: {error}") from error
  return Loaded(filled, len(arrays) - len(entries(variables)), str(source))

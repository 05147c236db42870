"""ImageNet weights for the backbone, under torchvision's, timm's and HRNet's names.

These name the modules that METRO's state dict holds in its backbone: HRNet alike,
ResNet as conv1, bn1 and layer1 to layer4 instead of numbers in a Sequential.
"""

import os
import re

from metro_jax.weights import torch_metro, weight_files
from metro_jax.weights.torch_metro import Entry, Variables
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


def load(source: str | os.PathLike[str], variables: Variables) -> Loaded:
  """Loads the backbone's weights from a file or a Hugging Face repository.

  The classifier and BatchNorm's counters of batches count as ignored.

  Args:
    source: As for `weight_files.locate`.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Returns:
    "params" and "batch_stats", each with "backbone" alone; NumPy arrays.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If the file is refused, or naming keys that do not fit.
  """
  table = entries(variables)
  unused = {f"{name}.{leaf}" for name in _CLASSIFIERS for leaf in ("weight", "bias")}
  unused |= {
    entry.key.removesuffix("running_mean") + "num_batches_tracked"
    for entry in table
    if entry.key.endswith("running_mean")
  }
  return weight_files.load(source, table, unused, variables)

"""The deterministic weights behind the goldens, by PyTorch state-dict key."""

import zlib

import numpy as np


def rng(name: str) -> np.random.Generator:
  return np.random.default_rng(zlib.crc32(name.encode()))


def fill_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the float32 value of an entry; int64 zeros for batch counters."""
  z = rng(key).standard_normal(shape)
  if key.endswith("num_batches_tracked"):
    return np.zeros(shape, np.int64)
  if key.endswith("running_mean"):
    value = 0.02 * z
  elif key.endswith("running_var"):
    value = 1 + 0.02 * np.abs(z)
  elif key.endswith("_embeddings.weight"):
    value = 0.02 * z
  elif len(shape) >= 2:  # convolutions and linear layers: 1/sqrt(fan in)
    value = z / np.sqrt(np.prod(shape[1:]))
  elif key.endswith(".bias"):
    value = 0.02 * z
  elif key.endswith(".weight"):  # BatchNorm and LayerNorm
    # Damped residual branches keep deep activations, and float32 noise, of order one.
    value = (1 + 0.02 * z) * _damping(key)
  else:
    raise KeyError(key)
  return value.astype(np.float32)


def _damping(key: str) -> float:
  if key.startswith("backbone.") and ".bn3." in key:
    return 0.25
  if key.startswith("backbone.stage") and ".bn2." in key:
    return 0.25
  if key.startswith("backbone.stage") and ".fuse_layers." in key:
    return 0.5
  return 1.0

"""What all processes of a run must have in common, by name, to be compared."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

import metro_jax
from metro_jax import versions
from metro_jax.config import OWN_PATHS
from metro_jax.data import datasets
from metro_jax.data.pipeline import Source

ROWS = 64  # of each split whose labels are compared


def setup(config: ConfigDict) -> dict[str, Any]:
  """Settings, code, versions and devices of this process."""
  flat = traverse_util.flatten_dict(config.to_dict(), sep=".")
  settings = {f"config.{k}": v for k, v in flat.items() if k not in OWN_PATHS}
  devices = jax.local_devices()
  return {
    **settings,
    **{f"version of {name}": value for name, value in versions.installed().items()},
    "code of metro_jax": code_hash(),
    "devices": f"{len(devices)} {devices[0].device_kind}",
  }


def data(splits: Sequence[Source]) -> dict[str, Any]:
  """Names, sizes and labels of the splits that this process has opened.

  Pictures do not count, since another JPEG library writes them with other bytes, nor
  do labels of synthetic data, which follow from settings and code.
  """
  found: dict[str, Any] = {}
  for split in splits:
    found[f"examples of {split.name}"] = len(split)
    for part in getattr(split, "sources", (split,)):
      if not part.name.startswith(f"{datasets.SYNTHETIC}/"):
        found[f"labels of {part.name}"] = _labels_hash(part)
  return found


def _labels_hash(split: Source) -> str:
  """One short hash of the numbers of rows spread evenly, first and last included."""
  last, digest = len(split) - 1, hashlib.blake2b(digest_size=8)
  for row in sorted({place * last // (ROWS - 1) for place in range(ROWS)}):
    example: Mapping[str, object] = split[row]
    for name in sorted(example.keys() - {"key", "image", "group"}):
      digest.update(name.encode() + np.asarray(example[name]).tobytes())
  return digest.hexdigest()


def code_hash(root: pathlib.Path | None = None) -> str:
  """One short hash of all Python files of a package, this one by default."""
  root = root or pathlib.Path(metro_jax.__file__).parent
  digest = hashlib.blake2b(digest_size=8)
  for path in sorted(root.rglob("*.py")):
    content = path.read_bytes()
    digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
    digest.update(content)
  return digest.hexdigest()

"""The arrays of a tree by name: what they are, and whether two trees agree.

A name is the path of an array, "params/encoder/kernel".
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

Tree = Any  # a pytree of arrays


class ArchitectureError(ValueError):
  """A checkpoint holds other arrays than the config's network and optimizer."""


def flatten(tree: Tree) -> dict[str, Any]:
  """The arrays by name, of any pytree that flax can name."""
  return traverse_util.flatten_dict(serialization.to_state_dict(tree), sep="/")


def fill(like: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
  """The structure of `like` with the arrays of these names."""
  named = traverse_util.flatten_dict(
    serialization.to_state_dict(like), sep="/", keep_empty_nodes=True
  )
  filled = {key: arrays.get(key, node) for key, node in named.items()}
  nested = traverse_util.unflatten_dict(filled, sep="/")
  return serialization.from_state_dict(like, nested)


def fit(like: Tree, arrays: Mapping[str, np.ndarray], where: str) -> Tree:
  """Fills a tree with arrays that must have its names, shapes and types.

  Args:
    like: Arrays or shapes.
    arrays: By name.
    where: They come from, for the message.

  Raises:
    ArchitectureError: If they are of another tree.
  """
  stored = {k: {"shape": x.shape, "dtype": x.dtype} for k, x in arrays.items()}
  expect_same(where, flatten(like), stored)
  return fill(like, arrays)


def describe(array: np.ndarray) -> dict[str, Any]:
  """Shape, type and hash of an array, as plain values."""
  data = np.ascontiguousarray(array).view(np.uint8).data
  return {
    "shape": list(array.shape),
    "dtype": str(array.dtype),
    "hash": _hash(data),
  }


def digest(values: Mapping[str, Any]) -> str:
  """The hash of plain values, which JSON may have carried."""
  return _hash(json.dumps(values, sort_keys=True).encode())


def _hash(data: bytes | memoryview) -> str:
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def expect_same(
  where: str, wanted: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]
) -> None:
  """Compares names, shapes and types.

  Args:
    where: What is compared, for the message.
    wanted: By name, anything with a shape and a dtype.
    stored: By name, what `describe` gave.

  Raises:
    ArchitectureError: Naming all arrays that differ, one a line.
  """
  want = {key: f"{tuple(x.shape)} {x.dtype}" for key, x in wanted.items()}
  have = {key: f"{tuple(x['shape'])} {x['dtype']}" for key, x in stored.items()}
  differ = [
    f"  {key}: expected {want.get(key, 'nothing')}, got {have.get(key, 'nothing')}"
    for key in sorted(want.keys() | have.keys())
    if want.get(key) != have.get(key)
  ]
  if differ:
    first = f"{where}: expected the config's architecture, got another"
    raise ArchitectureError(f"{first} ({len(differ)} arrays):\n" + "\n".join(differ))

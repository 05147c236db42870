"""Files of arrays by name, .safetensors and .npz: what they hold, and their numbers."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import safetensors

from metro_jax.text_files import one_line
from metro_jax.untrusted import npz
from metro_jax.weights.state_dicts import Contents

MOST_BYTES = 8 * 2**30  # in an .npz; the largest METRO has an eighth of it


class SafetensorsFile:
  """A safetensors file; its numbers are read when they are asked for.

  Attributes:
    contents: Its tensors and their shapes.
  """

  def __init__(self, path: pathlib.Path):
    """Reads what the file claims to hold.

    Raises:
      ValueError: If the file is damaged.
    """
    self._path = path
    with self._open() as file:
      shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    self.contents = Contents(shapes, dict.fromkeys(shapes, ""), {})

  def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the arrays under some keys.

    Raises:
      ValueError: If the file is damaged or claims too much.
    """
    with self._open() as file:
      return {key: file.get_tensor(key) for key in keys}

  @contextlib.contextmanager
  def _open(self) -> Iterator[Any]:
    try:
      with safetensors.safe_open(self._path, framework="numpy") as file:
        yield file
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
      raise ValueError(
        f"{self._path}: expected a whole safetensors file, got {one_line(error)}"
      ) from error


class NpzFile:
  """An .npz file; its numbers are read when they are asked for.

  Attributes:
    contents: Its arrays of numbers and their shapes, and what else it has.
  """

  def __init__(self, path: pathlib.Path):
    """Reads what the file claims to hold.

    Raises:
      ValueError: If the file is damaged or has no numbers.
    """
    self._path = path
    with npz.opened(path) as archive:
      infos = npz.members(archive)
      headers = {key: npz.read_header(archive, info) for key, info in infos.items()}
    self._infos = {k: infos[k] for k, v in headers.items() if v.dtype.kind in "biuf"}
    shapes = {key: headers[key].shape for key in self._infos}
    unread = {
      key: f"numbers of type {header.dtype}"
      for key, header in headers.items()
      if key not in shapes
    }
    if unread and not shapes:
      raise ValueError(f"{path}: expected weights, got {next(iter(unread.values()))}")
    self.contents = Contents(shapes, dict.fromkeys(shapes, ""), unread)

  def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the arrays under some keys.

    Raises:
      ValueError: If the file is damaged or claims too much.
    """
    infos = {key: self._infos[key] for key in keys}
    with npz.opened(self._path) as archive:
      npz.check_members(list(infos.values()), MOST_BYTES)
      return {k: npz.parse(archive.read(v), k) for k, v in infos.items()}

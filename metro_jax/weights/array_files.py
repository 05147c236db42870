"""Files of arrays by name, .safetensors and .npz: what they hold, and their numbers."""

import contextlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import safetensors

from metro_jax.text_files import one_line
from metro_jax.weights.state_dicts import Contents
from metro_jax.weights.torch_metro import Shape

MOST_BYTES = 8 * 2**30  # in an .npz; the largest METRO has an eighth of it
_NOT_AN_NPZ = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


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
    """The arrays under some keys.

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
    self._members: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    unread: dict[str, str] = {}
    with self._open() as archive:
      for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        shape, dtype = _read_header(archive, member)
        if dtype.kind in "biuf":
          shapes[key], self._members[key] = shape, member.filename
        else:
          unread[key] = f"numbers of type {dtype}"
      if unread and not shapes:
        raise ValueError(next(iter(unread.values())))
    self.contents = Contents(shapes, dict.fromkeys(shapes, ""), unread)

  def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays under some keys.

    Raises:
      ValueError: If the file is damaged or claims too much.
    """
    with self._open() as archive:
      members = {key: archive.getinfo(self._members[key]) for key in keys}
      size = sum(member.file_size for member in members.values())
      if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, at most {MOST_BYTES:,} are read")
      arrays = {}
      for key, member in members.items():
        with archive.open(member) as file:
          arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
      return arrays

  @contextlib.contextmanager
  def _open(self) -> Iterator[zipfile.ZipFile]:
    try:
      with zipfile.ZipFile(self._path) as archive:
        yield archive
    except (*_NOT_AN_NPZ, ValueError) as error:
      raise ValueError(
        f"{self._path}: expected a whole .npz, got {one_line(error)}"
      ) from error


def _read_header(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[Shape, np.dtype]:
  """Shape and type of an array; its header must claim what the archive holds."""
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
      raise ValueError(f"{member.filename} of npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    claimed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and file.tell() + claimed != member.file_size:
      raise ValueError(
        f"{member.filename} whose header claims {claimed:,} bytes "
        f"in a member of {member.file_size:,}"
      )
  return shape, dtype

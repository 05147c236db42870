"""Columns of numbers in a .npz file, read row by row.

What `np.savez` wrote lies in the file as it is in memory, so a row is read from its
place, at no cost in memory however many processes read. What `np.savez_compressed`
wrote is unpacked by each process, all of a column at once, up to a limit.
"""

import math
import pathlib
import struct
import zipfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from metro_jax.data.readers.file_bytes import FileBytes
from metro_jax.untrusted import npz
from metro_jax.untrusted.pickle_stubs import reading

_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: lengths of name and extra
MAX_UNPACKED_BYTES = 4 * 2**30  # of a column; the largest set's have a twentieth


class _Member(NamedTuple):
  shape: tuple[int, ...]
  dtype: str
  start: int  # of the first row in the file, or -1 if rows are not there as they are


class NpzColumns:
  """The arrays of a .npz file that have a row each; pickles as their places."""

  def __init__(self, path: pathlib.Path, wanted: Iterable[str]):
    """Reads where the columns are; no numbers.

    Args:
      path: The file.
      wanted: Names to look for; those that the file lacks are not there.

    Raises:
      ValueError: If the file is damaged or a column holds no numbers.
    """
    self.path = path
    self._bytes = FileBytes(path)
    self._members: dict[str, _Member] = {}
    with npz.opened(path) as archive:
      infos = npz.members(archive)
      self.names = tuple(infos)
      for name in wanted:
        if name in infos:
          with reading(f"{path}: {name}"):
            self._members[name] = _find(archive, infos[name])
    self._unpacked: dict[str, np.ndarray] = {}

  def __contains__(self, name: str) -> bool:
    return name in self._members

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a column, rows first."""
    return self._members[name].shape

  def row(self, name: str, row: int) -> np.ndarray:
    """Reads a column's row, float64.

    Raises:
      ValueError: If the file is damaged or was cut since it was opened.
    """
    member = self._members[name]
    if member.start < 0:
      if name not in self._unpacked:
        with npz.opened(self.path) as archive:
          self._unpacked[name] = npz.parse(
            archive.read(npz.members(archive)[name]), name
          )
      return np.array(self._unpacked[name][row], np.float64)
    dtype, shape = np.dtype(member.dtype), member.shape[1:]
    size = math.prod(shape) * dtype.itemsize
    with reading(name):
      data = self._bytes.read(member.start + row * size, size)
    return np.frombuffer(data, dtype).reshape(shape).astype(np.float64)

  def texts(self, name: str) -> list[str]:
    """Reads all of a column of text, pickled objects read without executing anything.

    Raises:
      ValueError: If it is not there or is no text.
    """
    where = f"{self.path}: {name}"
    if name not in self.names:
      raise ValueError(f"{where}: expected it, got {' '.join(self.names)}")
    with npz.opened(self.path) as archive, reading(where):
      info = npz.members(archive)[name]
      _expect_unpackable(info)
      data = archive.read(info)
    return npz.parse_texts(data, where)

  def __getstate__(self) -> dict[str, object]:
    return self.__dict__ | {"_unpacked": {}}


def _expect_unpackable(info: zipfile.ZipInfo) -> None:
  """Refuses a packed column that claims more than is reasonable or possible."""
  if info.compress_type != zipfile.ZIP_STORED:
    npz.check_members([info], MAX_UNPACKED_BYTES)


def _find(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
  """Where the numbers of a member are, which must be as many as it claims."""
  header = npz.read_header(archive, info)
  shape, dtype = header.shape, header.dtype
  if dtype.kind not in "biuf" or len(shape) == 0:
    raise ValueError(f"expected rows of numbers, got {dtype} {shape}")
  if info.compress_type != zipfile.ZIP_STORED or (header.fortran and len(shape) > 1):
    _expect_unpackable(info)
    return _Member(shape, dtype.str, -1)
  handle = archive.fp
  if handle is None:
    raise ValueError("expected an open file")
  handle.seek(info.header_offset)
  lengths = _LOCAL_HEADER.unpack(handle.read(_LOCAL_HEADER.size))
  start = info.header_offset + _LOCAL_HEADER.size + sum(lengths) + header.length
  return _Member(shape, dtype.str, start)

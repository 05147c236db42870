"""A text file whose lines are read in any order."""

import os
import pathlib
import weakref

import numpy as np

from metro_jax.data.readers import pictures

MAX_LINE_BYTES = 1 << 24


class LineFile:
  """Lines that are not blank, by row; pickles as its path and their places."""

  def __init__(self, path: pathlib.Path):
    """Reads the file once, to find where its lines start.

    Args:
      path: The file.

    Raises:
      ValueError: If a line is longer than text would be.
    """
    self.path = path
    self._stamp = pictures.stamp(path)
    starts, sizes, numbers = [], [], []
    place = number = 0
    with open(path, "rb") as file:
      while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
          raise ValueError(f"{path} line {number}: expected a line below 16 MB")
        if line.strip():
          starts.append(place)
          sizes.append(len(line))
          numbers.append(number)
        place += len(line)
    self._starts = np.array(starts, np.int64)
    self._sizes = np.array(sizes, np.int32)
    self._numbers = np.array(numbers, np.int32)
    self._descriptor: int | None = None

  def __len__(self) -> int:
    return len(self._starts)

  def number(self, row: int) -> int:
    """Of the line in the file, from 1 as editors count."""
    return int(self._numbers[row])

  def line(self, row: int) -> bytes:
    """The bytes of a line.

    Raises:
      ValueError: If the file was cut since it was opened.
    """
    size = int(self._sizes[row])
    data = os.pread(self._open(), size, int(self._starts[row]))
    if len(data) != size:
      raise ValueError(f"expected {size} bytes, got {len(data)}: a cut file")
    return data

  def _open(self) -> int:
    if self._descriptor is None:
      self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
      weakref.finalize(self, os.close, self._descriptor)
    return self._descriptor

  def __getstate__(self) -> dict[str, object]:
    return self.__dict__ | {"_descriptor": None}

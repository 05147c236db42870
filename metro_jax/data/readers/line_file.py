"""A text file whose lines are read in any order."""

import pathlib

import numpy as np

from metro_jax.data.readers.file_bytes import FileBytes

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
    self._bytes = FileBytes(path)
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
    return self._bytes.read(int(self._starts[row]), int(self._sizes[row]))

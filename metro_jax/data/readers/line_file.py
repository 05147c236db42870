"""A text file whose lines are read in any order."""

import io
import pathlib
from collections.abc import Iterator

import numpy as np

from metro_jax import files, text_files
from metro_jax.data.readers.file_bytes import FileBytes

MAX_LINE_BYTES = 1 << 24


class LineFile:
  """Lines that are not blank, by row; pickles as its path and their places."""

  def __init__(self, path: pathlib.Path):
    """Reads the file once, to find where its lines start.

    Args:
      path: The file; of UTF-8, or UTF-16 and UTF-32 with a mark.

    Raises:
      ValueError: If a line is longer than text would be, or it is no text.
    """
    self.path = path
    self._bytes = FileBytes(path)
    starts, sizes, numbers = [], [], []
    with open(files.open_regular(path), "rb") as file:
      start = file.read(8)
      self._encoding, place = text_files.encoding_of(start)
      text_files.expect_text(start, str(path))
      file.seek(place)
      for number, (size, blank) in enumerate(self._lines(file), 1):
        if size > MAX_LINE_BYTES:
          raise ValueError(f"{path} line {number}: expected a line below 16 MB")
        if not blank:
          starts.append(place)
          sizes.append(size)
          numbers.append(number)
        place += size
    self._starts = np.array(starts, np.int64)
    self._sizes = np.array(sizes, np.int32)
    self._numbers = np.array(numbers, np.int32)

  def _lines(self, file: io.BufferedReader) -> Iterator[tuple[int, bool]]:
    """How many bytes each line has, and whether it is blank."""
    if self._encoding == "utf-8":
      while line := file.readline(MAX_LINE_BYTES + 1):
        yield len(line), not line.strip()
      return
    # In UTF-16 the byte of a line's end is part of other letters, too.
    with io.TextIOWrapper(
      file, self._encoding, errors="surrogatepass", newline="\n"
    ) as texts:
      while text := texts.readline(MAX_LINE_BYTES + 1):
        yield len(text.encode(self._encoding, "surrogatepass")), not text.strip()

  def __len__(self) -> int:
    return len(self._starts)

  def number(self, row: int) -> int:
    """Of the line in the file, from 1 as editors count."""
    return int(self._numbers[row])

  def line(self, row: int) -> bytes:
    """A line in UTF-8.

    Raises:
      ValueError: If the file was cut since it was opened, or the line is no text.
    """
    data = self._bytes.read(int(self._starts[row]), int(self._sizes[row]))
    return data if self._encoding == "utf-8" else data.decode(self._encoding).encode()

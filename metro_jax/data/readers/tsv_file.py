"""One TSV file: any row at once, by the byte offsets of its rows.

The offsets stand in FILE.lineidx, one a line, as the original writes them. Without
that file, or where it is of another TSV file, they are found by reading FILE once, and
kept: beside it, or in an index folder where that cannot be written.
"""

import codecs
import hashlib
import os
import pathlib

import numpy as np
import tqdm
from jaxtyping import Int64

from metro_jax import files, text_files
from metro_jax.data import names
from metro_jax.data.readers.file_bytes import FileBytes

_BLOCK_BYTES = 8 << 20
_SAMPLES = 256  # rows that a lineidx is checked at
NOWHERE = -1  # the place of a row whose line in a list is no number
MAX_ROW_BYTES = 1 << 28  # no picture in base64 is larger

Offsets = Int64[np.ndarray, " n"]  # starts of the rows and the end of the file


class TsvFile:
  """A TSV file's rows; pickles as its path and offsets."""

  def __init__(self, path: pathlib.Path, index_folder: pathlib.Path | None = None):
    """Reads or makes the index.

    Args:
      path: The file.
      index_folder: Where the index goes if it cannot stand beside the file.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it has no rows.
    """
    self.path = pathlib.Path(path)
    self._bytes = FileBytes(self.path)
    with open(self.path, "rb") as file:
      encoding, _ = text_files.encoding_of(file.read(4))
    if encoding != "utf-8":
      raise ValueError(f"{path}: expected UTF-8, got {encoding.upper()}")
    self._offsets = _offsets(self.path, index_folder)
    if len(self) == 0:
      raise ValueError(f"{self.path}: expected rows, got an empty file")

  def __len__(self) -> int:
    return len(self._offsets) - 1

  def row(self, row: int) -> tuple[bytes, bytes | None]:
    """The first column of a row, and the others as they stand, None without a tab.

    Raises:
      ValueError: If there is no such row, or the file was changed.
    """
    if not 0 <= row < len(self):
      raise ValueError(f"expected a row below {len(self)} of {self.path}, got {row}")
    start, end = int(self._offsets[row]), int(self._offsets[row + 1])
    if end - start > MAX_ROW_BYTES:
      raise ValueError(f"expected a row below 256 MB, got {end - start} bytes")
    line = self._bytes.read(start, end - start).rstrip(b"\r\n")
    if row == 0:
      line = line.removeprefix(codecs.BOM_UTF8)
    if b"\n" in line:
      raise ValueError("expected one row, got several: FILE.lineidx is of another file")
    first, tab, others = line.partition(b"\t")
    return first, others if tab else None


def read_integers(
  path: pathlib.Path, columns: int
) -> Int64[np.ndarray, "rows {columns}"]:
  """Reads a file of whole numbers, tabs between them.

  Raises:
    ValueError: Naming the file and what is wrong in it.
  """
  if path.stat().st_size == 0:
    return np.zeros((0, columns), np.int64)
  try:
    with open(path, "rb") as file:
      encoding, mark = text_files.encoding_of(file.read(4))
    if encoding == "utf-8":
      encoding = "utf-8-sig"  # which skips a mark
    elif mark:
      encoding = encoding.rpartition("-")[0]  # likewise
    found = np.loadtxt(
      path, np.int64, delimiter="\t", ndmin=2, comments=None, encoding=encoding
    )
  except (ValueError, OverflowError) as error:
    raise ValueError(f"{path}: expected whole numbers; {error}") from error
  if found.shape[1] != columns:
    raise ValueError(f"{path}: expected {columns} columns, got {found.shape[1]}")
  return found


def read_lines_alone(
  path: pathlib.Path, columns: int
) -> Int64[np.ndarray, "rows {columns}"]:
  """What `read_integers` reads, and `NOWHERE` for each line that is bad."""
  found = []
  for line in filter(str.strip, text_files.read_text(path).split("\n")):
    try:
      numbers = np.array([int(text) for text in line.split("\t")], np.int64)
    except (ValueError, OverflowError):
      numbers = np.zeros(0, np.int64)
    found.append(numbers if len(numbers) == columns else np.full(columns, NOWHERE))
  return np.reshape(found, (-1, columns)).astype(np.int64)


def _offsets(path: pathlib.Path, index_folder: pathlib.Path | None) -> Offsets:
  """Reads the index that is of this file, or makes it."""
  size = path.stat().st_size
  places = [path.with_suffix(".lineidx")]
  if index_folder is not None:
    places.append(index_folder / _index_name(path))
  for place in places:
    starts = _read_index(place)
    if starts is not None and _is_of(starts, path, size):
      return np.append(starts, size)
  starts = _find_rows(path, size)
  for place in places:
    if _write_index(place, starts):
      break
  return np.append(starts, size)


def _index_name(path: pathlib.Path) -> str:
  """Of the same name in another folder is another file."""
  digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
  return f"{path.stem}-{digest}.lineidx"


def _read_index(path: pathlib.Path) -> np.ndarray | None:
  try:
    path = names.find_file(path.name, path.parent)  # no link to elsewhere
    files.expect_regular(path)
    return read_integers(path, columns=1)[:, 0]
  except (OSError, ValueError):
    return None


def _is_of(starts: np.ndarray, path: pathlib.Path, size: int) -> bool:
  """Whether rows of the file start there: its first, last and others spread evenly."""
  if len(starts) == 0 or starts[0] != 0 or starts[-1] >= size:
    return len(starts) == size == 0
  if (np.diff(starts) <= 0).any():
    return False
  chosen = np.linspace(1, len(starts) - 1, min(_SAMPLES, len(starts) - 1)).astype(int)
  with open(path, "rb") as file:
    for row in chosen:
      file.seek(int(starts[row]) - 1)
      if file.read(1) != b"\n":
        return False
    file.seek(int(starts[-1]))
    file.readline(MAX_ROW_BYTES)
    return file.tell() == size


def _find_rows(path: pathlib.Path, size: int) -> np.ndarray:
  starts = [np.zeros(min(size, 1), np.int64)]
  place = 0
  with (
    open(path, "rb", buffering=0) as file,
    tqdm.tqdm(
      total=size,
      unit="B",
      unit_scale=True,
      desc=f"rows of {path.name}",
      disable=None,
    ) as bar,
  ):
    while block := file.read(_BLOCK_BYTES):
      ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
      starts.append(ends + (place + 1))
      place += len(block)
      bar.update(len(block))
  found = np.concatenate(starts)
  return found[found < place]


def _write_index(path: pathlib.Path, starts: np.ndarray) -> bool:
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial, open(partial, "w") as file:
      for first in range(0, len(starts), 100_000):
        block = starts[first : first + 100_000]
        file.write("".join(f"{start}\n" for start in block.tolist()))
  except OSError:
    return False
  return True

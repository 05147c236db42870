"""Arrays in `.npy` and `.npz` files, pickled objects among them.

Sizes that a file claims are compared with the bytes it has before anything is allocated
for them.
"""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from metro_jax import files
from metro_jax.untrusted import pickles
from metro_jax.untrusted.pickle_stubs import array, filled, items, reading

_OPCODES_PER_TEXT = 16  # of a list: two, or some more if each is NumPy's scalar
_DEFLATE_RATIO = 1032  # no deflated stream unpacks to more
_HEADER_BYTES = 1 << 16  # of a .npy file, at most


class Header(NamedTuple):
  """What a `.npy` file claims; of its own `length` in bytes."""

  shape: tuple[int, ...]
  fortran: bool  # whether the first axis is the fastest
  dtype: np.dtype
  length: int


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
  """Opens an archive; whatever damage raises becomes one line that names the file.

  Raises:
    OSError: If the file cannot be opened.
    ValueError: If it is damaged.
  """
  with open(path, "rb") as file:
    try:
      with reading(str(path)), zipfile.ZipFile(file) as archive:
        yield archive
    except OSError as error:  # damaged places make it seek anywhere
      raise ValueError(f"{path}: expected a whole file; {error}") from error


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
  """Returns the members of an archive by the names of their arrays."""
  return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}


def check_members(
  infos: Sequence[zipfile.ZipInfo], most_bytes: int = pickles.MAX_BYTES
) -> None:
  """Refuses members of an archive that unpack to more than they can hold.

  Args:
    infos: Those that are to be read.
    most_bytes: How large they may be together, unpacked.

  Raises:
    ValueError: If they claim more, or more than a deflated stream of theirs holds.
  """
  total = sum(info.file_size for info in infos)
  if total > most_bytes:
    raise ValueError(f"expected at most {most_bytes} unpacked bytes, got {total}")
  for info in infos:
    if info.file_size > _DEFLATE_RATIO * (info.compress_size + 1):
      raise ValueError(
        f"{info.filename}: {info.compress_size} bytes cannot hold the "
        f"{info.file_size} that they claim"
      )


def read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
  """Reads what a member claims, without its numbers.

  Raises:
    ValueError: If it is no array, or claims more or less than the archive holds.
  """
  with archive.open(info) as file:
    header = _parse_header(file.read(_HEADER_BYTES))
  claimed = math.prod(header.shape) * header.dtype.itemsize
  if not header.dtype.hasobject and header.length + claimed != info.file_size:
    raise ValueError(
      f"expected a whole file, got {info.filename} whose header claims {claimed:,} "
      f"bytes in a member of {info.file_size:,}"
    )
  return header


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads an array of numbers from a `.npy` file.

  Raises:
    ValueError: If it is none, or not as long as it claims.
  """
  data = files.read_bytes(path, pickles.MAX_BYTES)
  return array(parse(data, str(path)), str(path))


def load(
  path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> dict[str, Any]:
  """Reads arrays of a `.npz` file, pickled objects among them.

  Args:
    path: The file.
    names: Which to read, those that the file has; None reads all.

  Returns:
    Arrays of numbers, and inert values for arrays of objects.

  Raises:
    ValueError: If the file is damaged, claims more than it has, or names what is
      refused.
  """
  with opened(path) as archive:
    infos = members(archive)
    wanted = {k: v for k, v in infos.items() if names is None or k in names}
    check_members(list(wanted.values()))
    return {k: parse(archive.read(v), f"{path}: {k}") for k, v in wanted.items()}


def parse(data: bytes, where: str) -> Any:
  """Reads a `.npy` file's bytes.

  Args:
    data: All of the file.
    where: File and name, for the error.

  Returns:
    An array of numbers, or what the pickle behind an object array holds.

  Raises:
    ValueError: If it is damaged or names what is refused.
  """
  with reading(where):
    header = _parse_header(data)
    if header.dtype.hasobject:
      return pickles.unpickle(data[header.length :], where)
    return _numbers(data, header)


def parse_texts(data: bytes, where: str) -> list[str]:
  """Reads the texts of a `.npy` file with one axis, of a fixed length or pickled.

  Args:
    data: The file's bytes.
    where: File and name, for the error.

  Raises:
    ValueError: If they are no texts, or not as many as claimed.
  """
  with reading(where):
    header = _parse_header(data)
    shape, dtype = header.shape, header.dtype
    if len(shape) != 1 or shape[0] > len(data) - header.length:
      raise ValueError(f"expected texts along one axis, got {dtype} {shape}")
    if not dtype.hasobject:
      return [_text(value) for value in _numbers(data, header).tolist()]
    most = pickles.MAX_OPCODES + _OPCODES_PER_TEXT * shape[0]
    found = items(pickles.unpickle(data[header.length :], where, most), where)
    if len(found) != shape[0]:
      raise ValueError(f"expected {shape[0]} texts, got {len(found)}")
    return [_text(value, where) for value in found]


def _text(value: Any, where: str = "") -> str:
  if not isinstance(value, str | bytes):
    value = array(value, where).item()
  if not isinstance(value, str | bytes):
    raise ValueError(f"expected texts, got {type(value).__name__}")
  # Names of files are of any bytes; where one is no text, only its row is bad.
  return value if isinstance(value, str) else value.decode(errors="surrogateescape")


def _numbers(data: bytes, header: Header) -> np.ndarray:
  rest = memoryview(data)[header.length :]
  return filled(rest, header.dtype, header.shape, header.fortran)


def _parse_header(data: bytes) -> Header:
  """Of formats 1.0 and 2.0, which are all that NumPy writes."""
  stream = io.BytesIO(data[:_HEADER_BYTES])
  version = np.lib.format.read_magic(stream)
  if version == (1, 0):
    header = np.lib.format.read_array_header_1_0(stream)
  elif version == (2, 0):
    header = np.lib.format.read_array_header_2_0(stream)
  else:
    raise ValueError(f"expected .npy format 1.0 or 2.0, got {version}")
  return Header(*header, stream.tell())
